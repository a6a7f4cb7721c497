"""What is fuzzed: each reader with whole files to damage, and what may come of a damaged one."""

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pillow_heif
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from PIL import Image

from facevae import cli
from facevae.attributes import encode, hdf5, latents
from facevae.attributes.directions import derive_directions
from facevae.attributes.statistics import AttributeStatistics
from facevae.attributes.vectors import LatentBatch, mean_difference
from facevae.config import ModelConfig
from facevae.data import shard_files
from facevae.data.images import decode_image, decode_jpegs, encode_jpeg
from facevae.data.shard_files import Manifest, Shard, ShardRows
from facevae.data.sources import tables
from facevae.data.sources.archive import TarFiles, ZipFiles
from facevae.data.sources.image_files import ImageFiles
from facevae.data.sources.image_source import ImageSource
from facevae.data.sources.parquet import ParquetFiles
from facevae.data.sources.synthetic import synthetic_face
from facevae.models import build_vae, checkpoint
from facevae.perceptual.weights import read_weights

REPOSITORY = Path(__file__).parents[2]
NAMES = ("Smiling", "Male", "Bald")


@dataclass(frozen=True)
class Reader:
    """A reader, and how it is fuzzed."""

    name: str
    corpus: list[bytes]
    read: Callable[[bytes], Any]
    """reads a file of that content; raises what readers may, or AssertionError: a wrong result"""
    is_text: bool = False
    share: float = 1.0
    """of the inputs; less for slow ones"""


def readers(folder: Path) -> list[Reader]:
    """All readers; their files are written below a folder."""
    return [each for make in MAKERS for each in make(folder)]


# --- images --------------------------------------------------------------------------------------


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _bombs() -> list[bytes]:
    """Small files that say they hold very many pixels."""
    png = bytearray(_encoded(Image.new("L", (64, 64)), "PNG"))
    png[16:24] = (60_000).to_bytes(4, "big") * 2
    jpeg = bytearray(_encoded(Image.new("RGB", (64, 64)), "JPEG"))
    size = jpeg.index(b"\xff\xc0") + 5
    jpeg[size : size + 4] = b"\xff\xdc" * 2
    return [bytes(png), bytes(jpeg), _encoded(Image.new("1", (7_900, 7_900)), "PNG")]


def _images(folder: Path) -> Iterator[Reader]:
    pillow_heif.register_heif_opener()  # so that Pillow writes the HEIC below
    face = synthetic_face(0, 0)[0].resize((48, 48))
    forms: dict[str, list[bytes]] = {
        "JPEG": [
            _encoded(face, "JPEG"),
            _encoded(face, "JPEG", progressive=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
            _encoded(face.convert("CMYK"), "JPEG"),
        ],
        "PNG": [
            _encoded(face, "PNG"),
            _encoded(face.convert("P"), "PNG", transparency=0),
            _encoded(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)), "PNG"),
        ],
        "WebP": [_encoded(face, "WEBP"), _encoded(face.convert("RGBA"), "WEBP", lossless=True)],
        "GIF, TIFF, BMP": [
            _encoded(face, "GIF", save_all=True, append_images=[face]),
            _encoded(face, "TIFF", compression="tiff_lzw"),
            _encoded(face, "BMP"),
        ],
        "HEIC": [_encoded(face, "HEIF"), _encoded(face.convert("L"), "HEIF")],
        "AVIF, JPEG 2000, PPM": [
            _encoded(face, "AVIF"),
            _encoded(face, "JPEG2000"),
            _encoded(face, "JPEG2000", no_jp2=True),
            _encoded(face, "PPM"),
        ],
    }
    forms["JPEG"].append(_bombs()[1])
    forms["PNG"] += [_bombs()[0], _bombs()[2]]

    def read(data: bytes) -> None:
        image = decode_image(data)
        assert image.mode == "RGB"
        assert image.width * image.height <= 64_000_000
        assert min(image.size) >= 16

    for name, corpus in forms.items():
        yield Reader(f"image: {name}", corpus, read)
    stored = [encode_jpeg(face), _bombs()[1]]

    def read_stored(data: bytes) -> None:
        pixels = decode_jpegs([data])
        assert pixels.ndim == 4

    yield Reader("stored JPEG", stored, read_stored)


# --- shards --------------------------------------------------------------------------------------


def _rows(count: int) -> ShardRows:
    chance = np.random.default_rng(0)
    images = [chance.bytes(40) for _ in range(count)]
    labels = chance.choice(np.array([-1, 0, 1], np.int8), (count, len(NAMES)))
    return ShardRows([f"{row:06d}.jpg" for row in range(count)], images, labels)


def _shards(folder: Path) -> Iterator[Reader]:
    rows = _rows(600)
    entry = shard_files.write_shard(str(folder), "whole", "train", rows, 64)
    whole = Path(shard_files.shard_uri(str(folder), "whole")).read_bytes()
    small = _rows(3)
    shard_files.write_shard(str(folder), "small", "train", small, 64)
    corpus = [whole, Path(shard_files.shard_uri(str(folder), "small")).read_bytes()]
    target = Path(shard_files.shard_uri(str(folder), "damaged"))

    def read(data: bytes) -> None:
        target.write_bytes(data)
        found = shard_files.read_shard(str(folder), "damaged")
        assert _is_one_of(found, [rows, small])

    def read_group(data: bytes) -> None:
        target.write_bytes(data)
        assert shard_files.read_images(str(folder), "damaged", [1]) == rows.images[256:512]

    yield Reader("shard", corpus, read)
    yield Reader("shard: images of a row group", [whole], read_group)
    manifest = Manifest(
        NAMES, 64, (entry,), {"kind": "drawn"}, {"crop": "auto"}, {"truncated": 2}, False, "run"
    )
    yield from _manifests(folder, manifest)


def _is_one_of(found: ShardRows, expected: list[ShardRows]) -> bool:
    return any(
        found.image_ids == each.image_ids
        and found.images == each.images
        and np.array_equal(found.attributes, each.attributes)
        for each in expected
    )


def _manifests(folder: Path, manifest: Manifest) -> Iterator[Reader]:
    shard_files.write_manifest(str(folder), manifest)
    path = folder / "manifest.json"
    corpus = [path.read_bytes()]

    def read(data: bytes) -> None:
        path.write_bytes(data)
        assert shard_files.read_manifest(str(folder)) == manifest

    yield Reader("manifest", corpus, read, is_text=True)


# --- tables --------------------------------------------------------------------------------------


def _tables(folder: Path) -> Iterator[Reader]:
    labels = [
        b"3\nSmiling Male Bald\n1.jpg -1 1 1\n2.jpg 1 -1 -1\n3.jpg 1 1 -1\n",
        b'image_id,Smiling,Male,Bald\n1.jpg,1,0,-1\n"2.jpg",0,1,1\n3.jpg,-1,-1,-1\n',
    ]
    path = folder / "table.csv"

    def read_labels(data: bytes) -> None:
        path.write_bytes(data)
        table = tables.read_label_table(str(path))
        assert table.labels.shape == (len(table.image_ids), len(table.names))
        assert len(set(table.image_ids)) == len(table.image_ids)
        assert np.isin(table.labels, (-1, 0, 1)).all()

    def read_partition(data: bytes) -> None:
        path.write_bytes(data)
        assert set(tables.read_partition(str(path)).values()) <= {"train", "val", "test"}

    def read_identities(data: bytes) -> None:
        path.write_bytes(data)
        people = tables.read_identities(str(path))
        assert all(0 <= person < 2**63 for person in people.values())

    pairs = [b"1.jpg 0\n2.jpg 1\n3.jpg 2\n", b"image,value\n1.jpg,0\n2.jpg,1\n"]
    yield Reader("label table", labels, read_labels, is_text=True)
    yield Reader("partition table", pairs, read_partition, is_text=True)
    yield Reader("identity table", pairs, read_identities, is_text=True)


# --- sources of faces ----------------------------------------------------------------------------


def _sources(folder: Path) -> Iterator[Reader]:
    faces = {
        f"{i}.jpg": _encoded(synthetic_face(0, i)[0].resize((20, 20)), "JPEG") for i in range(3)
    }
    zipped, tarred, table = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in faces.items():
            archive.writestr(f"faces/{name}", data)
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        for name, data in faces.items():
            member = tarfile.TarInfo(f"faces/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    images = [{"bytes": data, "path": name} for name, data in faces.items()]
    columns = {"image": images, "A": [True, False, None], "B": [-1, 1, 0], "split": ["train"] * 3}
    pq.write_table(pa.table(columns), table, row_group_size=2, write_page_checksum=True)

    def read(kind: type[ImageFiles], path: Path, data: bytes) -> None:
        path.write_bytes(data)
        files = kind(str(path))
        source = ImageSource(files, label_encoding="signed")
        listing = source.faces
        assert sorted(set(listing.image_ids)) == listing.image_ids
        assert listing.attributes.shape == (len(listing.image_ids), len(source.attribute_names))
        assert np.isin(listing.attributes, (-1, 0, 1)).all()
        for name in listing.image_ids:
            image = files.read(name)
            assert image in faces.values() or kind is TarFiles, "a tar has no checksums of content"

    for kind, whole in ((ZipFiles, zipped), (TarFiles, tarred), (ParquetFiles, table)):
        path = folder / f"faces.{kind.kind}"
        yield Reader(f"faces: {kind.kind}", [whole.getvalue()], partial(read, kind, path))


# --- latents, statistics, vectors ----------------------------------------------------------------


def _latents(folder: Path) -> Iterator[Reader]:
    chance = np.random.default_rng(1)
    labels = chance.choice(np.array([-1, 1], np.int8), (40, len(NAMES)))
    values = chance.normal(size=(40, 6)).astype(np.float32)
    batch = LatentBatch([f"{row}.jpg" for row in range(40)], ["train"] * 40, values, labels)
    latents.write_latents(str(folder), "whole", batch)
    target = Path(latents.latents_uri(str(folder), "damaged"))
    shard = Shard("damaged", "train", 40, 0, "digest")
    manifest = Manifest(NAMES, 64, (shard,), {}, {}, {}, False)

    def read(data: bytes) -> None:
        target.write_bytes(data)
        (found,) = latents.read_latents(str(folder), manifest)
        assert found.image_id == batch.image_id
        assert found.split == batch.split
        assert np.array_equal(found.latents, values)
        assert np.array_equal(found.attributes, labels)

    whole = Path(latents.latents_uri(str(folder), "whole")).read_bytes()
    yield Reader("latents", [whole], read)

    statistics = AttributeStatistics.of_batch(values, np.ones_like(values), labels)
    encode._write_statistics(str(folder), "damaged", "digest", statistics)
    file = Path(encode.statistics_uri(str(folder), "damaged"))
    arrays = statistics.to_arrays()

    def read_statistics(data: bytes) -> None:
        file.write_bytes(data)
        target.touch()
        found = encode._finished(str(folder), shard)
        if found is not None:
            back = found.by_split["train"].to_arrays()
            assert back.keys() == arrays.keys()
            assert all(np.array_equal(back[name], arrays[name]) for name in arrays)

    yield Reader("statistics", [file.read_bytes()], read_statistics)
    vectors = mean_difference(
        statistics, NAMES, model_digest="m", shards_digest="s", labels_digest="l"
    )
    _, directions = derive_directions([statistics], None, min_count=1)
    vectors = replace(vectors, directions=directions, lineage="{}")
    yield _vectors(folder, vectors, batch)


def _vectors(folder: Path, vectors: Any, batch: LatentBatch) -> Reader:
    path = folder / "vectors.h5"
    hdf5.write_hdf5(path, vectors, [batch], 40)
    ours = path.read_bytes()
    with h5py.File(path, "w") as file:  # as the original writes it
        file.create_dataset("fields", data=list(NAMES), dtype=h5py.string_dtype())
        file.create_dataset("attribute_vectors", data=vectors.vectors)
        file.create_dataset("latent_vars", data=batch.latents.astype(np.float64))
        file.create_dataset("attributes", data=batch.attributes.astype(np.float64))
    theirs = path.read_bytes()
    with h5py.File(path, "w") as file:  # small, and as large as one likes once it is read
        file.create_dataset("fields", data=list(NAMES), dtype=h5py.string_dtype())
        file.create_dataset("attribute_vectors", data=vectors.vectors)
        file.create_dataset("latent_vars", (2**40, 6), np.float64, chunks=(1024, 6))
        file.create_dataset("attributes", (2**40, 3), np.float64, chunks=(1024, 3))
    bomb = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        found = hdf5.read_vectors(path)
        size = found.vectors.shape
        assert size[0] == len(found.names) == len(found.valid) == len(found.positive_count)
        assert found.standard_errors.shape == size
        assert found.directions is None or found.directions.partial.shape == size
        rows = hdf5.rows_labelled(path, found.names[0], -1)
        some = hdf5.read_rows(path, rows[:5])
        assert some.latents.shape == (len(rows[:5]), size[1])
        assert len(some.image_id) == len(some.split) == len(rows[:5])

    return Reader("vectors (HDF5)", [ours, theirs, bomb], read, share=0.7)


# --- checkpoints ---------------------------------------------------------------------------------


def _checkpoints(folder: Path) -> Iterator[Reader]:
    whole, copy = folder / "checkpoint", folder / "copy"
    whole.mkdir()
    torch.manual_seed(0)
    config = ModelConfig(latent_size=2)
    vae = build_vae(config)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))])
    state = checkpoint.TrainingState(
        7, vae.state_dict(), vae.state_dict(), optimizer.state_dict(), [{"step": 7.0}]
    )
    checkpoint.save_training(
        whole, state, checkpoint.ModelCard(config, 7, "shards", "run"), {"any": "thing"}
    )
    shutil.copytree(whole, copy)

    def damage(name: str, data: bytes, load: Callable[[Path], Any]) -> Any:
        (copy / name).write_bytes(data)
        try:
            return load(copy)
        finally:
            shutil.copy(whole / name, copy / name)

    def read_card(data: bytes) -> None:
        damage("model.json", data, checkpoint.read_card)

    def read_model(data: bytes) -> None:
        found = damage("model.safetensors", data, checkpoint.load_model)
        _assert_equal(found.vae.state_dict(), vae.state_dict())

    def read_state(data: bytes) -> None:
        found = damage("training.json", data, checkpoint.load_training)
        _assert_equal(found.weights, state.weights)

    def read_optimizer(data: bytes) -> None:
        found = damage("optimizer.pt", data, checkpoint.load_training)
        assert found.optimizer == state.optimizer

    def parse_optimizer(data: bytes) -> None:
        damage("optimizer.pt", data, lambda path: checkpoint._load_optimizer(path / "optimizer.pt"))

    content = {path.name: path.read_bytes() for path in whole.iterdir()}
    yield Reader("model.json", [content["model.json"]], read_card, is_text=True)
    yield Reader("model.safetensors", [content["model.safetensors"]], read_model, share=0.05)
    yield Reader("training.json", [content["training.json"]], read_state, True, share=0.05)
    yield Reader("optimizer.pt", [content["optimizer.pt"]], read_optimizer, share=0.2)
    yield Reader("optimizer.pt, digest made to fit", [content["optimizer.pt"]], parse_optimizer)

    tensors = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2, dtype=torch.half)}
    old = io.BytesIO()
    torch.save(tensors, old, _use_new_zipfile_serialization=False)
    new = io.BytesIO()
    torch.save(tensors, new)
    plain = safetensors.torch.save(tensors)
    huge = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
    bomb = len(huge).to_bytes(8, "little") + huge.encode()
    yield _weights(folder / "weights.safetensors", [plain, bomb])
    yield _weights(folder / "weights.pt", [old.getvalue(), new.getvalue()])


def _weights(path: Path, corpus: list[bytes]) -> Reader:
    def read(data: bytes) -> None:
        path.write_bytes(data)
        found = read_weights(path)
        assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())

    return Reader(f"own weights ({path.suffix})", corpus, read)


def _assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# --- settings ------------------------------------------------------------------------------------

LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)


def _settings(folder: Path) -> Iterator[Reader]:
    path = folder / "settings.yaml"
    own = [file.read_bytes() for file in sorted((REPOSITORY / "configs").glob("*.yaml"))]
    rich = (
        b"output: out\nloss: {layers: [conv1, conv2], layer_weights: [1.0, 0.5], alfa: 2}\n"
        b"scaling:\n  workers: [1, 2]\nsharding:\n  crop: [1, 2, 30, 40]\ntraining:\n  steps: 10\n"
    )
    corpus = [*own, rich, rich, LAUGHS.encode(), MERGES.encode(), b"a: " + b"[" * 5000]

    def read(data: bytes) -> None:
        path.write_bytes(data)
        for command in ("quickstart", "train"):
            cli.parse(command, [f"--config={path}", "--output=out"])

    yield Reader("settings (YAML)", corpus, read, is_text=True, share=0.1)


MAKERS = (_images, _shards, _tables, _sources, _latents, _checkpoints, _settings)
