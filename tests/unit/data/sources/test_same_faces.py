"""The same faces, kept in each of the forms: the same shards, to the digest."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from facevae.config import ShardsConfig
from facevae.data import shard_files
from facevae.data.make_shards import WriteShard, plan_shards, shard_item
from facevae.data.sources.make_source import make_source
from facevae.runs import storage

NAMES = ("Smiling", "Male", "Young")
FACES = 30


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """Faces as a folder with CelebA's table."""
    place = tmp_path_factory.mktemp("faces")
    chance = np.random.default_rng(0)
    (place / "img_align_celeba").mkdir()
    lines = [str(FACES), " ".join(NAMES)]
    for number in range(1, FACES + 1):
        pixels = chance.integers(0, 256, (6, 5, 3), np.uint8)
        image = Image.fromarray(pixels).resize((40, 48))
        image.save(place / "img_align_celeba" / f"{number:06d}.jpg")
        labels = chance.choice([-1, 1], len(NAMES))
        lines.append(f"{number:06d}.jpg " + " ".join(f"{label:2d}" for label in labels))
    (place / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    return place


def labels_of(faces: Path) -> dict[str, list[int]]:
    rows = [line.split() for line in (faces / "list_attr_celeba.txt").read_text().splitlines()[2:]]
    return {row[0]: [int(label) for label in row[1:]] for row in rows}


def images_of(faces: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (faces / "img_align_celeba").iterdir()}


def as_folder(faces: Path, _: Path) -> dict[str, str]:
    return {"images": str(faces / "img_align_celeba")}


def as_zip(faces: Path, place: Path) -> dict[str, str]:
    with zipfile.ZipFile(place / "img_align_celeba.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("img_align_celeba/", b"")
        for name, data in reversed(images_of(faces).items()):
            file.writestr(f"img_align_celeba/{name}", data)
        file.writestr("__MACOSX/img_align_celeba/._000001.jpg", b"Mac OS X")
        file.writestr("readme.txt", b"Kaggle's zip has tables beside the images")
    return {"images": str(place / "img_align_celeba.zip")}


def as_tar(faces: Path, place: Path) -> dict[str, str]:
    with tarfile.open(place / "faces.tar", "w") as file:
        file.add(faces / "img_align_celeba", "./celeba/img_align_celeba")
    return {"images": str(place / "faces.tar")}


def as_csv(faces: Path, place: Path) -> dict[str, str]:
    """Kaggle's table."""
    rows = [f"{name},{','.join(map(str, row))}" for name, row in labels_of(faces).items()]
    (place / "list_attr_celeba.csv").write_text("\n".join([",".join(["image_id", *NAMES]), *rows]))
    return as_folder(faces, place) | {"attributes": str(place / "list_attr_celeba.csv")}


def table(faces: Path, kind: pa.DataType, absent: int = -1) -> pa.Table:
    images, labels = images_of(faces), labels_of(faces)
    rows = [{"bytes": images[name], "path": name} for name in labels]
    columns = {
        name: pa.array([present > 0 if kind == pa.bool_() else (present if present > 0 else absent)
                        for present in column], kind)
        for name, column in zip(NAMES, zip(*labels.values(), strict=True), strict=True)
    }  # fmt: skip
    people = pa.array(range(5, 5 + len(rows)))
    return pa.table({"image": rows, "celeb_id": people, **columns})


def as_parquet(faces: Path, place: Path) -> dict[str, str]:
    """One file, with true and false."""
    pq.write_table(table(faces, pa.bool_()), place / "faces.parquet", row_group_size=7)
    return {"images": str(place / "faces.parquet"), "attributes": ""}


def as_parquets(faces: Path, place: Path) -> dict[str, str]:
    """A folder of files, with -1 and 1; the rows lie in another order."""
    whole = table(faces, pa.int64())
    for part, rows in enumerate((range(20, 30), range(12), range(12, 20))):
        path = place / "data" / f"part-{part}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(whole.take(list(rows)), path, row_group_size=8)
    return {"images": str(place), "attributes": ""}


def as_parquet_with_table(faces: Path, place: Path) -> dict[str, str]:
    """One file without labels, and the table beside it."""
    pq.write_table(table(faces, pa.bool_()).select(["image"]), place / "faces.parquet")
    return {"images": str(place / "faces.parquet")}


def digest(faces: Path, place: Path, given: dict[str, str]) -> str:
    """The digest of the shards of a source, made without Ray as its tasks make them."""
    settings = {"attributes": str(faces / "list_attr_celeba.txt")} | given
    settings = {name: value for name, value in settings.items() if value}
    config = ShardsConfig(
        output=str(place / "shards"),
        sharding={"image_size": 32, "images_per_shard": 8},
        **settings,  # type: ignore[arg-type]
    )
    source = make_source(config, config.sharding)
    assert source.unlisted == []
    task = WriteShard(config.output, source, config.sharding)
    entries = []
    for plan in plan_shards(source.splits, config.sharding.images_per_shard):
        item = shard_item(source, plan)
        task.write(
            {
                "name": np.array([item["name"]]),
                "split": np.array([item["split"]]),
                "image_ids": np.array([item["image_ids"]]),
                "attributes": item["attributes"][None],
            }
        )
        record = storage.read_json(f"{config.output}/records/{plan.name}.json")
        assert record["quarantined"] == []
        entries.append(shard_files.Shard(**record["shard"]))
    assert sum(shard.rows for shard in entries) == FACES
    assert len({shard.split for shard in entries}) == 3
    return storage.value_digest([source.attribute_names, [vars(shard) for shard in entries]])


LOCAL = [as_zip, as_tar, as_csv, as_parquet, as_parquets, as_parquet_with_table]


@pytest.mark.parametrize("kept", LOCAL, ids=lambda kept: kept.__name__)
def test_the_same_faces_give_the_same_shards(
    faces: Path, tmp_path: Path, kept: Callable[[Path, Path], dict[str, str]]
) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    expected = digest(faces, tmp_path / "one", as_folder(faces, tmp_path / "one"))
    given = kept(faces, tmp_path / "other")
    assert digest(faces, tmp_path / "out", given) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kept", [as_folder, as_zip, as_parquets])
def test_so_they_do_from_an_object_store(faces, tmp_path, s3, kept) -> None:
    (tmp_path / "other").mkdir()
    given = kept(faces, tmp_path / "other")
    place = Path(given["images"])
    filesystem, path = storage.filesystem_of(s3)
    for file in [place] if place.is_file() else sorted(place.rglob("*")):
        if file.is_file():
            below = file.relative_to(place.parent).as_posix()
            filesystem.pipe_file(f"{path}/{below}", file.read_bytes())
    filesystem.pipe_file(f"{path}/labels.txt", (faces / "list_attr_celeba.txt").read_bytes())
    remote = given | {"images": f"{s3}/{place.name}"}
    if "attributes" not in given:
        remote["attributes"] = f"{s3}/labels.txt"
    expected = digest(faces, tmp_path / "one", as_folder(faces, tmp_path))
    assert digest(faces, tmp_path / "out", remote) == expected


def test_a_label_of_0_and_1_is_stated_or_refused(faces: Path, tmp_path: Path) -> None:
    numbers = table(faces, pa.int8(), absent=0)
    pq.write_table(numbers, tmp_path / "faces.parquet")
    given = {"images": str(tmp_path / "faces.parquet")}
    config = ShardsConfig(**given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"may mean absent or unknown: say --sharding\.label_enc"):
        _ = make_source(config, config.sharding).faces
    for encoding, absent in (("binary", -1), ("signed", 0)):
        config = ShardsConfig(**given, sharding={"label_encoding": encoding})  # type: ignore[arg-type]
        found = make_source(config, config.sharding).faces
        expected = np.array([*labels_of(faces).values()])
        np.testing.assert_array_equal(found.attributes, np.where(expected > 0, 1, absent))


def test_a_pixel_of_an_archive_is_read_as_in_a_folder(faces: Path, tmp_path: Path) -> None:
    config = ShardsConfig(**as_zip(faces, tmp_path))  # type: ignore[arg-type]
    image = make_source(config, config.sharding).load("000003.jpg")
    expected = Image.open(io.BytesIO(images_of(faces)["000003.jpg"])).convert("RGB")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
