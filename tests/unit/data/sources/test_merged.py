"""Several sources as one."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from facevae.config import ShardsConfig
from facevae.config.parsing import parse_config
from facevae.data.make_shards import WriteShard, plan_shards, shard_item
from facevae.data.shard_files import read_shard, shard_uri
from facevae.data.sources.make_source import make_source


@pytest.fixture
def sources(tmp_path: Path) -> list[dict[str, Any]]:
    """A folder with a table, a Parquet file with other labels, and a folder without any."""
    for folder, colour in (("a", "white"), ("c", "black")):
        (tmp_path / folder).mkdir()
        for name in ("1.png", "2.png"):
            Image.new("RGB", (20, 20), colour).save(tmp_path / folder / name)
    (tmp_path / "a.csv").write_text("image_id,Smiling,Male\n1.png,1,-1\n2.png,-1,0\n3.png,1,1\n")
    rows = [{"bytes": (tmp_path / "a" / "1.png").read_bytes(), "path": "1.png"}]
    columns = {"image": rows, "Young": pa.array([0], pa.int8()), "Male": pa.array([1], pa.int8())}
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    return [
        {"name": "mine", "images": str(tmp_path / "a"), "attributes": str(tmp_path / "a.csv")},
        {"name": "hub", "images": str(tmp_path / "b.parquet"), "label_encoding": "binary"},
        {"name": "plain", "images": str(tmp_path / "c")},
    ]


def test_labels_are_united_and_ids_bear_the_name_of_their_source(
    sources: list[dict[str, Any]],
) -> None:
    config = ShardsConfig(sources=sources)  # type: ignore[arg-type]
    source = make_source(config, config.sharding)
    assert source.attribute_names == ("Smiling", "Male", "Young")
    assert source.faces.image_ids == [
        "mine/1.png", "mine/2.png", "hub/1.png", "plain/1.png", "plain/2.png",
    ]  # fmt: skip
    np.testing.assert_array_equal(
        source.faces.attributes, [[1, -1, 0], [-1, 0, 0], [0, 1, -1], [0, 0, 0], [0, 0, 0]]
    )
    assert source.unlisted == [("mine/3.png", "label row without image")]
    assert np.asarray(source.load("hub/1.png")).min() == 255
    assert np.asarray(source.load("plain/1.png")).max() == 0
    kinds = {name: each["kind"] for name, each in source.describe()["sources"].items()}
    assert kinds == {"mine": "image_folder", "hub": "parquet", "plain": "image_folder"}
    received = pickle.loads(pickle.dumps(source))  # noqa: S301 - our own bytes
    assert "faces" not in received.__dict__
    assert received.faces.splits == source.splits


def test_shards_have_a_column_of_sources(sources: list[dict[str, Any]], tmp_path: Path) -> None:
    config = ShardsConfig(
        sources=sources,  # type: ignore[arg-type]
        output=str(tmp_path / "out"),
        sharding={"image_size": 16},  # type: ignore[arg-type]
    )
    source = make_source(config, config.sharding)
    task = WriteShard(config.output, source, config.sharding)
    found = []
    for plan in plan_shards(source.splits, 10):
        item = shard_item(source, plan)
        batch = {name: np.array([item[name]]) for name in ("name", "split", "image_ids")}
        task.write(batch | {"attributes": item["attributes"][None]})
        column = pq.read_table(shard_uri(config.output, plan.name)).column("source").to_pylist()
        rows = read_shard(config.output, plan.name)
        assert column == [name.partition("/")[0] for name in rows.image_ids]
        found += column
    assert sorted(found) == ["hub", "mine", "mine", "plain", "plain"]


def test_sources_may_be_given_on_the_command_line(sources: list[dict[str, Any]]) -> None:
    words = ", ".join(f"{{name: {each['name']}, images: {each['images']}}}" for each in sources)
    config = parse_config(ShardsConfig, "shards", "", ["--sources", f"[{words}]"])
    assert isinstance(config, ShardsConfig)
    assert [each.name for each in config.sources] == ["mine", "hub", "plain"]
