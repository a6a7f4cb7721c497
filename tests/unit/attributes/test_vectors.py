"""Planted directions, the original's file layout, and damaged files."""

import dataclasses
import os

import h5py
import numpy as np
import pytest

from facevae.attributes import hdf5
from facevae.attributes.directions import Directions, derive_directions
from facevae.attributes.hdf5 import (
    read_batches,
    read_rows,
    read_vectors,
    rows_labelled,
    rows_of,
    write_hdf5,
)
from facevae.attributes.statistics import AttributeStatistics
from facevae.attributes.vectors import LatentBatch, mean_difference
from facevae.errors import UserError

NAMES = ("Smiling", "Male", "Bald")
IMAGES, LATENT = 400, 20
ORIGINAL = ("latent_vars", "attributes", "fields", "attribute_vectors")
"""the data sets of the original's file"""


@pytest.fixture(scope="module")
def world():
    """Latents in float32 moved along known directions by their labels; Bald is all but absent."""
    random = np.random.default_rng(3)
    labels = random.choice(np.array([-1, 1], np.int8), (IMAGES, len(NAMES)))
    labels[:, 2] = -1
    labels[:4, 2] = 1
    truth = random.normal(size=(len(NAMES), LATENT))
    noise = 0.5 * random.normal(size=(IMAGES, LATENT))
    latents = (noise + labels[:, :2] @ truth[:2]).astype(np.float32)
    return latents, labels, truth


@pytest.fixture(scope="module")
def vectors(world):
    latents, labels, _ = world
    statistics = AttributeStatistics.of_batch(latents, np.ones_like(latents), labels)
    return mean_difference(
        statistics, NAMES, model_digest="m1", shards_digest="s1", labels_digest="l1"
    )


@pytest.fixture(scope="module")
def with_directions(world, vectors):
    """The vectors with their directions, a lineage, and no sound direction for Bald."""
    latents, labels, _ = world
    parts = [
        AttributeStatistics.of_batch(latents[i::4], np.ones_like(latents[i::4]), labels[i::4])
        for i in range(4)
    ]
    _, directions = derive_directions(parts, None, min_count=25, folds_by_identity=True)
    return dataclasses.replace(
        vectors, directions=directions, lineage='{"withdrawn": "' + "3" * 100_000 + '"}'
    )


def _batches(world, size=64):
    """The world in batches; image names run against the order of rows."""
    latents, labels, _ = world
    for start in range(0, IMAGES, size):
        rows = range(start, min(start + size, IMAGES))
        yield LatentBatch(
            [f"{IMAGES - row:06d}.jpg" for row in rows],
            ["train" if row % 2 else "test" for row in rows],
            latents[rows],
            labels[rows],
        )


@pytest.fixture
def file(tmp_path, world, vectors):
    path = tmp_path / "attribute_vectors.h5"
    write_hdf5(path, vectors, _batches(world), IMAGES)
    return path


@pytest.fixture
def original(tmp_path, world, vectors):
    """A file as the original writes it: four data sets, fixed-length strings, nothing else."""
    path = tmp_path / "original.h5"
    latents, labels, _ = world
    with h5py.File(path, "w") as file:
        file["latent_vars"] = latents.astype(np.float64)
        file["attributes"] = labels.astype(np.float64)
        file["fields"] = np.array(NAMES, dtype="S")
        file["attribute_vectors"] = vectors.vectors
    return path


def test_planted_directions_are_recovered(world, vectors):
    truth = world[2]
    for index, name in enumerate(NAMES[:2]):
        found = vectors.vector(name)
        cosine = found @ truth[index] / np.linalg.norm(found) / np.linalg.norm(truth[index])
        assert cosine > 0.99
        # labels are -1 and +1, so the step from one class to the other is twice the direction
        assert np.abs(found - 2 * truth[index]).max() < 6 * vectors.standard_errors[index].max()


def test_a_rare_attribute_has_no_vector_and_says_why(vectors):
    np.testing.assert_array_equal(vectors.valid, [True, True, False])
    assert np.isnan(vectors.vectors[2]).all()
    assert np.isnan(vectors.standard_errors[2]).all()
    with pytest.raises(UserError, match="Bald has no vector: 4 images with it and 396 without"):
        vectors.vector("Bald")


@pytest.mark.parametrize(("min_count", "valid"), [(4, True), (5, False), (0, True)])
def test_min_count_is_the_smallest_that_counts(world, min_count, valid):
    latents, labels, _ = world
    statistics = AttributeStatistics.of_batch(latents, np.ones_like(latents), labels)
    assert mean_difference(statistics, NAMES, min_count).valid[2] == valid


@pytest.mark.parametrize("missing", [0, 1])
def test_one_class_is_never_valid(world, missing):
    latents, labels, _ = world
    statistics = AttributeStatistics.of_batch(
        latents, np.ones_like(latents), np.full_like(labels, missing)
    )
    found = mean_difference(statistics, NAMES, min_count=0)
    assert not found.valid.any()
    assert np.isnan(found.vectors).all()


@pytest.mark.parametrize(("asked", "hint"), [("smiling", "Smiling"), ("Mail", "Male")])
def test_an_unknown_name_gets_the_nearest(vectors, file, asked, hint):
    with pytest.raises(UserError, match=f"did you mean {hint}"):
        vectors.vector(asked)
    with pytest.raises(UserError, match=f"did you mean {hint}"):
        rows_labelled(file, asked, -1)


def test_another_model_is_refused_with_both_digests(vectors, original):
    vectors.check_model("m1")
    with pytest.raises(UserError, match=r"model m1,.* model m2"):
        vectors.check_model("m2")
    read_vectors(original).check_model("m2")


def test_the_file_has_the_originals_layout(file, world):
    latents, labels, _ = world
    with h5py.File(file) as opened:
        layout = {name: (opened[name].dtype, opened[name].shape) for name in opened}
        assert layout["latent_vars"] == (np.float64, (IMAGES, LATENT))
        assert layout["attributes"] == (np.float64, (IMAGES, 3))
        assert layout["attribute_vectors"] == (np.float32, (3, LATENT))
        np.testing.assert_array_equal(opened["latent_vars"][:], latents)
        np.testing.assert_array_equal(opened["attributes"][:], labels)
        assert [name.decode() for name in opened["fields"]] == list(NAMES)
        assert opened.attrs["format_version"] == 1


def test_the_original_adds_a_smile_with_the_file(tmp_path, world, vectors):
    """The faces and latents that its `modify_attribute.py` decodes are those that we decode."""
    path = tmp_path / "attribute_vectors.h5"
    in_order = [
        batch._replace(image_id=[f"{row:04d}" for row in range(IMAGES)])
        for batch in _batches(world, size=IMAGES)
    ]
    write_hdf5(path, vectors, in_order, IMAGES)
    with h5py.File(path, "r") as opened:
        read = {
            name: np.array(opened.get(name))
            for name in ("latent_vars", "attributes", "attribute_vectors")
        }
    smiling, faces, strengths = NAMES.index("Smiling"), (8, 11, 73), np.arange(10) * 0.5
    swept = np.zeros((len(faces) * len(strengths), LATENT), np.float32)
    for number, face in enumerate(faces):
        row = np.argwhere(read["attributes"][:, smiling] == -1)[face, 0]
        for step, strength in enumerate(strengths):
            swept[step + len(strengths) * number] = (
                read["latent_vars"][row] + strength * read["attribute_vectors"][smiling]
            )
    ours = read_rows(path, rows_labelled(path, "Smiling", -1)[list(faces)]).latents
    moved = ours[:, None] + strengths[:, None] * vectors.vector("Smiling")
    np.testing.assert_array_equal(swept, moved.reshape(swept.shape).astype(np.float32))


def test_hdf5_of_the_originals_time_reads_the_file(file):
    """Version 0 of the superblock is that of HDF5 1.0 to 1.6, which all later ones read."""
    content = file.read_bytes()
    assert content[:8] == b"\x89HDF\r\n\x1a\n"
    assert content[8] == 0


def test_nothing_that_the_originals_layout_holds_is_lost_on_the_way_there_and_back(
    file, tmp_path, vectors
):
    """Ours, the four data sets of the original alone, and ours again."""
    stripped, again = tmp_path / "stripped.h5", tmp_path / "again.h5"
    with h5py.File(file, "r") as ours, h5py.File(stripped, "w") as original:
        held = {name: np.array(ours[name]) for name in ORIGINAL}
        held["fields"] = held["fields"].astype("S")  # as Python 2 gives texts to h5py
        for name, values in held.items():
            original.create_dataset(name, data=values)
    write_hdf5(again, read_vectors(stripped), read_batches(stripped), IMAGES)
    with h5py.File(again, "r") as found:
        for name in ("latent_vars", "attributes", "attribute_vectors"):
            assert found[name].dtype == held[name].dtype
            np.testing.assert_array_equal(found[name], held[name])
        np.testing.assert_array_equal(found["fields"], held["fields"].astype(object))
    read = read_vectors(again)
    for name in ("vectors", "valid", "positive_count", "negative_count"):
        np.testing.assert_array_equal(getattr(read, name), getattr(vectors, name))
    assert read.names == vectors.names


def test_batches_are_the_rows_in_order(file, original, world):
    for found, expected in zip(read_batches(file, 64), _batches(world, size=64), strict=True):
        assert (found.image_id, found.split) == (expected.image_id, expected.split)
        np.testing.assert_array_equal(found.latents, expected.latents)
        np.testing.assert_array_equal(found.attributes, expected.attributes)
    names = [name for batch in read_batches(original) for name in batch.image_id]
    assert names == [f"{row:03d}" for row in range(IMAGES)]


@pytest.mark.parametrize("label", [0.5, 2, np.nan])
def test_a_label_that_is_none_is_refused(original, label):
    with h5py.File(original, "r+") as opened:
        opened["attributes"][7, 1] = label
    with pytest.raises(UserError, match=rf"attributes in .* holds {label:g}: expected -1, 0 and"):
        list(read_batches(original))


def test_vectors_round_trip(file, vectors):
    again = read_vectors(file)
    for name in ("vectors", "standard_errors", "valid", "positive_count", "negative_count"):
        found, expected = getattr(again, name), getattr(vectors, name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    for name in ("names", "method", "model_digest", "shards_digest", "labels_digest"):
        assert getattr(again, name) == getattr(vectors, name)


def test_directions_and_lineage_round_trip(tmp_path, world, with_directions):
    path = tmp_path / "v.h5"
    write_hdf5(path, with_directions, _batches(world), IMAGES)
    again = read_vectors(path)
    assert again.lineage == with_directions.lineage
    for field in dataclasses.fields(Directions):
        found, expected = (getattr(v.directions, field.name) for v in (again, with_directions))
        assert type(found) is type(expected)
        np.testing.assert_array_equal(found, expected, err_msg=field.name)
    np.testing.assert_array_equal(again.vectors, with_directions.vectors)


def test_a_file_without_directions_is_read(file, original):
    assert read_vectors(file).directions is None
    assert read_vectors(original).directions is None
    assert read_vectors(file).lineage == ""


def _lacks_partial(group):
    del group["partial"]


def _other_size(group):
    del group["latent_mean"]
    group["latent_mean"] = np.zeros(LATENT + 1)


def _words(group):
    del group["gap"]
    group["gap"] = np.array([b"x"] * len(NAMES))


def _dangling(group):
    del group["latent_covariance"]
    group["latent_covariance"] = h5py.SoftLink("/nowhere")


@pytest.mark.parametrize("damage", [_lacks_partial, _other_size, _words, _dangling])
def test_damaged_directions_are_one_line(tmp_path, world, with_directions, damage):
    path = tmp_path / "v.h5"
    write_hdf5(path, with_directions, _batches(world), IMAGES)
    with h5py.File(path, "r+") as opened:
        damage(opened["directions"])
    with pytest.raises(UserError, match="cannot read attribute vectors") as caught:
        read_vectors(path)
    assert "\n" not in str(caught.value)


def test_all_images_are_read_in_order_with_their_people(tmp_path, world, vectors):
    (whole,) = _batches(world, size=IMAGES)
    people = np.arange(IMAGES) // 3 - 1
    path = tmp_path / "v.h5"
    write_hdf5(path, vectors, [whole._replace(identities=people)], IMAGES)
    batches = list(read_batches(path, 150))
    assert [len(batch.image_id) for batch in batches] == [150, 150, 100]
    assert [name for batch in batches for name in batch.image_id] == whole.image_id
    assert [split for batch in batches for split in batch.split] == whole.split
    for name in ("latents", "attributes", "identities"):
        found = np.concatenate([getattr(batch, name) for batch in batches])
        np.testing.assert_array_equal(found, getattr(whole._replace(identities=people), name))


def test_images_of_a_file_without_people_have_none(file, original):
    assert all(batch.identities is None for batch in read_batches(file))
    assert all(batch.identities is None for batch in read_batches(original))


def test_the_same_input_gives_the_same_bytes(file, tmp_path, world, vectors):
    """Also for other batch sizes; and a second write replaces the first."""
    first = file.read_bytes()
    os.utime(file, (0, 0))
    write_hdf5(file, vectors, _batches(world, size=17), IMAGES)
    assert file.read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_names_in_blocks_give_the_same_bytes_for_any_batches(monkeypatch, tmp_path, world, vectors):
    monkeypatch.setattr(hdf5, "TEXTS_PER_WRITE", 50)
    contents = []
    for size in (17, 50, IMAGES):
        write_hdf5(tmp_path / "v.h5", vectors, _batches(world, size=size), IMAGES)
        contents.append((tmp_path / "v.h5").read_bytes())
    assert contents[0] == contents[1] == contents[2]


def test_rows_round_trip(file, world):
    found = read_rows(file, range(IMAGES))
    (expected,) = _batches(world, size=IMAGES)
    assert (found.image_id, found.split) == (expected.image_id, expected.split)
    np.testing.assert_array_equal(found.latents, expected.latents)
    np.testing.assert_array_equal(found.attributes, expected.attributes)


def test_rows_are_found_by_label_in_the_order_of_image_names(file, world):
    latents, labels, _ = world
    rows = rows_labelled(file, "Smiling", -1)
    # names run against rows
    np.testing.assert_array_equal(rows, np.flatnonzero(labels[:, 0] == -1)[::-1])
    chosen = read_rows(file, rows[[5, 0, 5]])
    assert chosen.image_id == [f"{IMAGES - row:06d}.jpg" for row in rows[[5, 0, 5]]]
    np.testing.assert_array_equal(chosen.latents, latents[rows[[5, 0, 5]]])
    np.testing.assert_array_equal(chosen.attributes, labels[rows[[5, 0, 5]]])
    np.testing.assert_array_equal(rows_of(file, chosen.image_id), rows[[5, 0, 5]])


@pytest.mark.parametrize("rows", [[IMAGES], [-1], [0, 10**6]])
def test_rows_out_of_range_are_refused(file, rows):
    with pytest.raises(UserError, match=f"rows 0 to {IMAGES - 1}"):
        read_rows(file, rows)


def test_an_unknown_image_is_refused(file):
    with pytest.raises(UserError, match=r"no image 'me.jpg'.*'000001.jpg' to '000400.jpg'"):
        rows_of(file, ["000001.jpg", "me.jpg"])


def test_the_originals_file_is_read(original, world, vectors):
    labels = world[1]
    found = read_vectors(original)
    assert found.names == NAMES
    np.testing.assert_array_equal(found.vectors, vectors.vectors)
    np.testing.assert_array_equal(found.valid, vectors.valid)
    np.testing.assert_array_equal(found.positive_count, vectors.positive_count)
    np.testing.assert_array_equal(found.negative_count, vectors.negative_count)
    assert (found.model_digest, found.method) == ("", "mean_difference")
    rows = rows_labelled(original, "Smiling", -1)
    np.testing.assert_array_equal(rows, np.flatnonzero(labels[:, 0] == -1))
    assert read_rows(original, [7, 123]).image_id == ["007", "123"]


@pytest.mark.parametrize("count", [IMAGES - 1, IMAGES + 1])
def test_another_number_of_images_leaves_no_file(tmp_path, world, vectors, count):
    with pytest.raises(UserError, match=f"expected latents of {count} images"):
        write_hdf5(tmp_path / "v.h5", vectors, _batches(world), count)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError("actor died"), KeyboardInterrupt()])
def test_a_failure_between_batches_keeps_the_old_file(file, tmp_path, world, vectors, error):
    def failing():
        yield next(_batches(world))
        raise error

    before = file.read_bytes()
    with pytest.raises(type(error)):
        write_hdf5(file, vectors, failing(), IMAGES)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_leaves_no_file(tmp_path, world, vectors):
    """A limit on the size of files stands for the full disk; HDF5 alone would end the process."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_hdf5(tmp_path / "v.h5", vectors, _batches(world), IMAGES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def _truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _text(path):
    path.write_text("not HDF5")


def _without_fields(path):
    with h5py.File(path, "a") as file:
        del file["fields"]


def _other_shape(path):
    with h5py.File(path, "a") as file:
        del file["attributes"]
        file["attributes"] = np.zeros((IMAGES, 2))


def _of_the_future(path):
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = 99


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncated, "not an HDF5 file, or damaged"),
        (_text, "not an HDF5 file, or damaged"),
        (_without_fields, "no data set 'fields'"),
        (_other_shape, r"attributes in .* has the shape .400, 2., expected .400, 3."),
        (_of_the_future, "format version 99"),
        (os.remove, "no attribute vectors at"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_in_one_line(file, damage, message):
    damage(file)
    with pytest.raises(UserError, match=message) as caught:
        read_vectors(file)
    assert "\n" not in str(caught.value)
    assert file.name in str(caught.value)


def test_a_small_file_that_says_it_is_huge_takes_no_memory(file):
    with h5py.File(file, "r+") as opened:
        for name, width in (("latent_vars", LATENT), ("attributes", len(NAMES))):
            del opened[name]
            opened.create_dataset(name, (2**40, width), np.float64, chunks=(64, width))
        del opened["image_ids"], opened["splits"]  # as in the original's files
    for read in (read_vectors, lambda path: rows_labelled(path, "Smiling", -1)):
        with pytest.raises(UserError, match="far too small"):
            read(file)


@pytest.mark.parametrize("name", ["image_ids", "splits", "valid", "standard_errors"])
def test_columns_of_another_length_are_refused(file, name):
    with h5py.File(file, "r+") as opened:
        part = opened[name][:-1]
        del opened[name]
        opened[name] = part
    with pytest.raises(UserError, match=f"{name} in .* has the shape"):
        read_vectors(file)


@pytest.mark.parametrize("fault", ["packed", "nested", "attribute"])
def test_texts_that_cannot_be_checked_are_not_read(file, fault):
    """Texts of variable length in a compressed data set, inside another type, and of the file."""
    words = np.full(len(NAMES), "x", object)
    with h5py.File(file, "r+") as opened:
        if fault == "packed":
            del opened["fields"]
            opened.create_dataset("fields", data=words, dtype=h5py.string_dtype(), chunks=(1,))
        elif fault == "nested":
            kind = np.dtype([("word", h5py.string_dtype())])
            del opened["valid"]
            opened["valid"] = np.array([("x",)] * len(NAMES), kind)
        else:
            opened.attrs["method"] = "mean_difference"
    with pytest.raises(UserError, match="cannot read attribute vectors"):
        read_vectors(file)


def test_the_whole_file_is_logged_under_its_name(tmp_path, world, vectors):
    logged = []

    def log(path):
        logged.append((path.name, path.read_bytes(), (tmp_path / "v.h5").exists()))

    write_hdf5(tmp_path / "v.h5", vectors, _batches(world), IMAGES, log)
    assert logged == [("v.h5", (tmp_path / "v.h5").read_bytes(), False)]


def test_vectors_of_another_kind_are_refused(file):
    with h5py.File(file, "r+") as opened:
        del opened["attribute_vectors"]
        words = np.full((len(NAMES), LATENT), "x", object)
        opened.create_dataset("attribute_vectors", data=words, dtype=h5py.string_dtype())
    with pytest.raises(UserError, match="cannot read attribute vectors"):
        read_vectors(file)
