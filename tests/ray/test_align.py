"""`facevae align` and `facevae shards --align` over photographs of all kinds."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from facevae.commands.align import LOST_FACES, align_photographs
from facevae.commands.shards import shard_faces
from facevae.config import AlignConfig, AlignmentConfig, ShardsConfig
from facevae.data.align import align
from facevae.data.aligned_files import PARTS, SUMMARY, TABLE
from facevae.data.detector import MtcnnDetector
from facevae.data.images import decode_image, decode_jpegs
from facevae.data.shard_files import read_manifest, read_shard
from facevae.data.sources.synthetic import synthetic_face
from facevae.errors import UserError
from tests.photographs import background, portrait, turned, write_photographs

pytestmark = pytest.mark.usefixtures("ray_cluster")
QUIET = {"system_metrics": False}
PART = 8


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """The folder of 80 files, and the status of each."""
    folder = tmp_path_factory.mktemp("photographs")
    return folder, write_photographs(folder)


def settings(folder: Path, output: Path, **changes) -> dict:
    return {
        "images": str(folder),
        "output": str(output),
        "parts": {"images": PART},
        "tracking": QUIET,
    } | changes


@pytest.fixture(scope="module")
def quiet(photographs, tmp_path_factory):
    """The output of a run that nothing disturbs, and its metrics."""
    output = tmp_path_factory.mktemp("quiet") / "aligned"
    return output, align_photographs(AlignConfig(**settings(photographs[0], output)))


def test_every_file_has_its_status(photographs, quiet):
    _, expected = photographs
    output, metrics = quiet
    assert len(expected) == 80
    rows = pq.read_table(output / TABLE).to_pylist()
    assert {row["source"]: row["status"] for row in rows} == expected
    assert [row["source"] for row in rows] == sorted(expected)
    counts = Counter(expected.values())
    for status, count in counts.items():
        assert metrics[f"photographs/{status}"] == count
    assert metrics["photographs"] == 80
    assert metrics["faces"] == counts["ok"]
    assert metrics["found"] == counts["ok"] / (counts["ok"] + counts["no_face"])
    assert metrics["images_per_second"] > 0
    assert all(row["reason"] for row in rows if row["status"] != "ok")
    with Image.open(output / LOST_FACES) as sheet:
        assert sheet.width > 1000


def test_a_part_has_the_faces_beside_their_rows(photographs, quiet):
    folder, expected = photographs
    table = [
        row
        for part in sorted((quiet[0] / PARTS).iterdir())
        for row in pq.read_table(part).to_pylist()
    ]
    assert len(table) == len(expected)
    detector = MtcnnDetector(AlignmentConfig())
    for row in table:
        assert (row["image"] is not None) == (row["status"] == "ok")
        if row["image_id"] in ("borders/0.png", "held/6.jpg", "kinds/16_bit.tif"):
            image = decode_image((folder / row["source"]).read_bytes())
            aligned = align(image, detector, AlignmentConfig())
            assert tuple(row["box"]) == aligned.box
            stored = decode_jpegs([row["image"]])[0].astype(int)
            assert np.abs(stored - np.asarray(aligned.crop)).mean() < 3


def test_killed_halfway_and_given_again_it_leaves_the_same_bytes(photographs, quiet, tmp_path):
    output = tmp_path / "aligned"
    (tmp_path / "config.json").write_text(json.dumps(settings(photographs[0], output)))
    words = [sys.executable, "-m", "facevae.cli", "align", "--config", "config.json"]
    root = str(Path(__file__).parents[2])
    address = ray.get_runtime_context().gcs_address
    environment = os.environ | {"RAY_ADDRESS": address, "PYTHONPATH": root}
    with subprocess.Popen(words, cwd=tmp_path, env=environment) as driver:
        while len(list((output / "records").glob("*.json"))) < 80 // PART // 2:
            assert driver.poll() is None
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
    assert not (output / SUMMARY).exists()
    survived = {path.name: path.stat().st_mtime_ns for path in (output / "records").iterdir()}
    subprocess.run(words, cwd=tmp_path, env=environment, check=True)
    for name, written in survived.items():
        if name.endswith(".json"):
            assert (output / "records" / name).stat().st_mtime_ns == written
    names = [TABLE, SUMMARY, LOST_FACES, *(f"{PARTS}/part-{i:05d}.parquet" for i in range(10))]
    for name in names:
        assert (output / name).read_bytes() == (quiet[0] / name).read_bytes(), name


def test_fail_names_what_has_no_face_and_looks_again_at_what_was_mended(tmp_path):
    folder, output = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    portrait(128).save(folder / "a.png")
    background(90, 90).save(folder / "b.png")
    config = AlignConfig(**settings(folder, output, alignment={"no_face": "fail"}))
    with pytest.raises(UserError, match=r"1 photographs .* have no face .*b\.png"):
        align_photographs(config)
    assert not (output / SUMMARY).exists()
    turned(6, 128).save(folder / "b.png")
    assert align_photographs(config)["faces"] == 2


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A folder with its labels: portraits, one photograph without a face, two synthetic faces."""
    folder = tmp_path_factory.mktemp("labelled")
    (folder / "images").mkdir()
    for i, angle in enumerate(range(-15, 16, 5)):
        turned(angle, 200 + 10 * i).save(folder / f"images/{i}.png")
    background(200, 150).save(folder / "images/none.png")
    for i in range(2):
        synthetic_face(0, i)[0].save(folder / f"images/synthetic_{i}.png")
    names = sorted(path.name for path in (folder / "images").iterdir())
    lines = ["image,Smiling", *(f"{name},{1 if i % 2 else -1}" for i, name in enumerate(names))]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def shards_of(folder: Path, output: Path, **sharding) -> ShardsConfig:
    return ShardsConfig(
        images=str(folder / "images"),
        attributes=str(folder / "labels.csv"),
        output=str(output),
        sharding={"image_size": 64, "max_bad_fraction": 0.5, **sharding},
        tracking=QUIET,
    )


def stored(folder: Path) -> dict[str, np.ndarray]:
    shards = [read_shard(str(folder), shard.name) for shard in read_manifest(str(folder)).shards]
    return {
        image_id: decode_jpegs([image])[0].astype(int)
        for rows in shards
        for image_id, image in zip(rows.image_ids, rows.images, strict=True)
    }


def test_shards_of_aligned_faces(labelled, tmp_path):
    config = shards_of(labelled, tmp_path / "out", align=True, alignment={"framing": "celeba"})
    metrics = shard_faces(config)
    assert metrics["images"] == 9
    manifest = read_manifest(config.output)
    assert manifest.quarantined == {"no face": 1}
    alignment = AlignmentConfig(**manifest.preprocessing["alignment"])
    assert (alignment.framing, alignment.size) == ("celeba", 64)
    faces = stored(tmp_path / "out")
    detector = MtcnnDetector(alignment)
    for name in ("0.png", "3.png"):
        image = Image.open(labelled / "images" / name).convert("RGB")
        crop = np.asarray(align(image, detector, alignment).crop)
        assert np.abs(faces[name] - crop).mean() < 4
    shard_faces(shards_of(labelled, tmp_path / "plain"))
    plain = stored(tmp_path / "plain")
    for name in ("synthetic_0.png", "synthetic_1.png"):
        np.testing.assert_array_equal(faces[name], plain[name])
    assert "alignment" not in read_manifest(str(tmp_path / "plain")).preprocessing


def test_the_originals_crop_of_160_pixels(labelled, tmp_path):
    """Aligned to 182 pixels, of which the middle 160 are stored as they are."""
    box = [11, 11, 171, 171]
    config = shards_of(labelled, tmp_path / "out", align=True, crop=box, image_size=160)
    shard_faces(config)
    image = Image.open(labelled / "images" / "2.png").convert("RGB")
    aligned = align(image, MtcnnDetector(AlignmentConfig()), AlignmentConfig())
    middle = np.asarray(aligned.crop)[11:171, 11:171]
    assert np.abs(stored(tmp_path / "out")["2.png"] - middle).mean() < 3
