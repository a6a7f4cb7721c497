"""Vectors derived anew: as a pass over what is left would give them, and what cannot be."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from facevae.attributes.directions import Directions
from facevae.attributes.hdf5 import read_batches, read_vectors, write_hdf5
from facevae.attributes.latents import write_latents
from facevae.attributes.vectors import AttributeVectors, LatentBatch, mean_difference
from facevae.commands import write_vectors
from facevae.commands.vectors import derive_vectors
from facevae.commands.write_vectors import derive
from facevae.config import DirectionsConfig, TrackingConfig, VectorsConfig
from facevae.errors import UserError
from facevae.tracking import read_run_id

NAMES = ("Smiling", "Male", "Young")
IMAGES, LATENT = 900, 5
SPLITS = np.array(["train"] * 600 + ["val"] * 200 + ["test"] * 100)
VARIANCE = np.full(LATENT, 0.2)


def world(missing: float = 0.0, people: bool = True) -> LatentBatch:
    random = np.random.default_rng(0)
    hidden = random.normal(size=(IMAGES, 1))
    labels = np.where(hidden + random.normal(size=(IMAGES, 3)) > 0, 1, -1).astype(np.int8)
    latents = labels @ random.normal(size=(3, LATENT)) + random.normal(size=(IMAGES, LATENT))
    labels[random.random(labels.shape) < missing] = 0
    ids = [f"{row:04d}.jpg" for row in range(IMAGES)]
    numbers = np.arange(IMAGES) % 90 if people else None
    return LatentBatch(ids, SPLITS.tolist(), latents.astype(np.float32), labels, numbers)


def part(images: LatentBatch, rows) -> LatentBatch:
    rows = np.arange(len(images.image_id))[rows].tolist()
    return LatentBatch(
        [images.image_id[row] for row in rows],
        [images.split[row] for row in rows],
        images.latents[rows],
        images.attributes[rows],
        None if images.identities is None else images.identities[rows],
    )


def fresh(images: LatentBatch, model: str = "m", names=NAMES) -> AttributeVectors:
    """What a pass over these images gives."""
    statistics, directions = derive(
        [images],
        (len(names), LATENT),
        has_gaps=bool((images.attributes == 0).any()),
        min_count=25,
        config=DirectionsConfig(),
        posterior_variance=VARIANCE,
        folds_by_identity=images.identities is not None,
    )
    found = mean_difference(
        statistics, names, model_digest=model, shards_digest="s", labels_digest="l"
    )
    return dataclasses.replace(found, directions=directions)


def write(folder: Path, images: LatentBatch, model: str = "m", names=NAMES) -> Path:
    """A folder of vectors, as `attributes` leaves it."""
    folder.mkdir(parents=True)
    found = fresh(images, model, names)
    write_hdf5(folder / "attribute_vectors.h5", found, [images], len(images.image_id))
    write_latents(str(folder), "train-00000", part(images, slice(0, 60)))
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    """An MLflow store for all, since its tables take seconds to make."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    return f"sqlite:///{path}"


@pytest.fixture
def run(tmp_path, store, monkeypatch):
    """A function that derives vectors, without pictures; returns metrics and what was written."""
    monkeypatch.setattr(write_vectors, "draw", lambda *_: None)

    def derived(folder: Path, **settings):
        config = VectorsConfig(
            output=str(tmp_path / "out"),
            vectors=str(folder),
            tracking=TrackingConfig(uri=store, system_metrics=False),
            **settings,
        )
        metrics = derive_vectors(config)
        file = tmp_path / "out" / "attribute_vectors.h5"
        return metrics, read_vectors(file), next(read_batches(file, IMAGES))

    return derived


def check_same(found: AttributeVectors, expected: AttributeVectors) -> None:
    np.testing.assert_allclose(found.vectors, expected.vectors, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(found.positive_count, expected.positive_count)
    np.testing.assert_array_equal(found.negative_count, expected.negative_count)
    for field in dataclasses.fields(Directions):
        np.testing.assert_allclose(
            getattr(found.directions, field.name),
            getattr(expected.directions, field.name),
            rtol=1e-9,
            atol=1e-9,
            err_msg=field.name,
        )


def check_images(found: LatentBatch, expected: LatentBatch) -> None:
    assert found.image_id == expected.image_id
    assert found.split == expected.split
    np.testing.assert_array_equal(found.latents, expected.latents)
    np.testing.assert_array_equal(found.attributes, expected.attributes)
    np.testing.assert_array_equal(found.identities, expected.identities)


@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"withdraw": ("0005.jpg", "0700.jpg")}, lambda row: row not in (5, 700)),
        ({"withdraw_people": (7,)}, lambda row: row % 90 != 7),
        ({"withdraw_shards": ("train-00000",)}, lambda row: row >= 60),
    ],
    ids=["images", "person", "shard"],
)
def test_what_is_left_gives_what_a_fresh_pass_over_it_gives(tmp_path, run, missing, settings, kept):
    images = world(missing)
    before = write(tmp_path / "source", images) / "attribute_vectors.h5"
    content = before.read_bytes()
    rest = part(images, [kept(row) for row in range(IMAGES)])
    metrics, vectors, written = run(tmp_path / "source", **settings)
    check_same(vectors, fresh(rest))
    check_images(written, rest)
    withdrawn = IMAGES - len(rest.image_id)
    assert (metrics["images"], metrics["withdrawn"]) == (IMAGES - withdrawn, withdrawn)
    lineage = json.loads(vectors.lineage)
    assert lineage["withdrawn_images"] == withdrawn
    assert vectors.shards_digest not in ("", "s")
    assert before.read_bytes() == content


def test_a_file_of_ids_and_a_table_of_people_do_as_well(tmp_path, run):
    images = world(people=False)
    write(tmp_path / "source", images)
    (tmp_path / "ids.txt").write_text("0001.jpg\n\n 0002.jpg\n")
    (tmp_path / "people.txt").write_text(
        "".join(f"{row:04d}.png {row % 90}\n" for row in range(IMAGES))
    )
    _, vectors, written = run(
        tmp_path / "source",
        withdraw_file=str(tmp_path / "ids.txt"),
        identities=str(tmp_path / "people.txt"),
        withdraw_people=(7, 8),
    )
    rest = [row not in (1, 2) and row % 90 not in (7, 8) for row in range(IMAGES)]
    check_images(written, part(world(), rest))
    check_same(vectors, fresh(part(world(), rest)))
    assert vectors.directions.folds_by_identity


@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_corrected_labels_give_what_a_fresh_pass_with_them_gives(tmp_path, run, missing):
    images = world(missing)
    write(tmp_path / "source", images)
    corrected = images.attributes.copy()
    rows = np.arange(0, IMAGES, 7)
    corrected[rows, 1] *= -1  # of some images; and one of them loses a label
    corrected[7, 1] = 0
    lines = [f"{images.image_id[row]},{corrected[row, 1]}" for row in rows.tolist()]
    (tmp_path / "labels.csv").write_text("image,Male\n" + "\n".join(lines))
    metrics, vectors, written = run(
        tmp_path / "source", attributes=str(tmp_path / "labels.csv"), label_encoding="signed"
    )
    expected = images._replace(attributes=corrected)
    check_images(written, expected)
    check_same(vectors, fresh(expected))
    assert metrics["corrected_labels"] == (corrected != images.attributes).sum()
    assert json.loads(vectors.lineage)["corrected_labels"] == metrics["corrected_labels"]


def test_added_files_give_what_a_pass_over_all_gives(tmp_path, run):
    images = world()
    write(tmp_path / "first", part(images, slice(0, 500)))
    write(tmp_path / "second", part(images, slice(500, None)))
    _, vectors, written = run(tmp_path / "first", add=(str(tmp_path / "second"),))
    check_images(written, images)
    check_same(vectors, fresh(images))
    assert len(json.loads(vectors.lineage)["sources"]) == 2


def test_some_attributes_are_those_of_a_pass_with_them_alone(tmp_path, run):
    images = world()
    write(tmp_path / "source", images)
    _, vectors, _ = run(tmp_path / "source", only=("Young", "Smiling"))
    assert vectors.names == ("Young", "Smiling")
    chosen = images._replace(attributes=np.ascontiguousarray(images.attributes[:, [2, 0]]))
    check_same(vectors, fresh(chosen, names=("Young", "Smiling")))


def test_an_older_file_gets_its_directions(tmp_path, run):
    folder = write(tmp_path / "source", world())
    file = folder / "attribute_vectors.h5"
    bare = dataclasses.replace(read_vectors(file), directions=None)
    write_hdf5(file, bare, [world()], IMAGES)
    _, vectors, _ = run(folder)
    expected = fresh(world())
    no_variance = dataclasses.replace(expected.directions, posterior_variance=np.zeros(LATENT))
    check_same(vectors, dataclasses.replace(expected, directions=no_variance))
    np.testing.assert_array_equal(vectors.vectors, bare.vectors)
    assert vectors.shards_digest == "s"


def test_a_second_change_tells_of_the_first_and_the_record_names_nobody(tmp_path, run, store):
    write(tmp_path / "source", world())
    run(tmp_path / "source", withdraw=("0005.jpg",), withdraw_people=(8,))
    shutil.move(tmp_path / "out", tmp_path / "once")
    first = read_run_id(str(tmp_path / "once"))
    _, vectors, _ = run(tmp_path / "once", withdraw=("0006.jpg",))
    lineage = json.loads(vectors.lineage)
    (source,) = lineage["sources"]
    assert source["run"] == first.run_id
    assert source["lineage"]["withdrawn_images"] == 11
    record = MlflowClient(store).get_run(first.run_id).data
    assert record.params["withdraw"] == "1"
    for text in (str(record.params), vectors.lineage, (tmp_path / "once/vectors.json").read_text()):
        assert "0005.jpg" not in text


def test_the_same_command_again_is_done_and_another_is_refused(tmp_path, run, capsys, monkeypatch):
    monkeypatch.undo()  # with pictures
    write(tmp_path / "source", world())
    metrics, _, _ = run(tmp_path / "source", withdraw=("0005.jpg",))
    assert run(tmp_path / "source", withdraw=("0005.jpg",))[0] == metrics
    assert "already done" in capsys.readouterr().err
    with pytest.raises(UserError, match="is of another withdraw"):
        run(tmp_path / "source", withdraw=("0006.jpg",))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"attribute_vectors.h5", "directions.csv", "auc.png", "confidence.png"}
    rows = (tmp_path / "out" / "directions.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["attribute", *NAMES]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"withdraw": ("9.jpg",)}, r"no image '9\.jpg' to withdraw: the 900 images run from"),
        ({"withdraw_people": (90,)}, "no image of person 90"),
        ({"withdraw_shards": ("val-00000",)}, "no latents of shard val-00000"),
        ({"withdraw_file": "/nowhere"}, "cannot read /nowhere"),
        ({"only": ("Mail",)}, "did you mean Male"),
        ({"add": ("SOURCE",)}, "found '0000.jpg' again"),
        ({"add": ("OTHER_MODEL",)}, "one is of model other, the other of m"),
        ({"add": ("OTHER_LABELS",)}, r"their attributes differ \(Bald, Young\)"),
        ({"attributes": "LABELS"}, "labels of another set than the vectors: .*'Bald'"),
        ({"attributes": "STRANGERS"}, "no row of .* is about an image"),
        ({"withdraw_people": tuple(range(90))}, "no image is left"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(tmp_path, run, settings, message):
    write(tmp_path / "SOURCE", world())
    others = part(world(), slice(0, 300))
    others = others._replace(image_id=[f"b{name}" for name in others.image_id])
    write(tmp_path / "OTHER_MODEL", others, model="other")
    write(tmp_path / "OTHER_LABELS", others, names=("Smiling", "Male", "Bald"))
    (tmp_path / "LABELS").write_text("image,Bald\n0001.jpg,-1\n0002.jpg,1\n")
    (tmp_path / "STRANGERS").write_text("image,Male\nx.jpg,-1\ny.jpg,1\n")
    for name, value in settings.items():
        if value in (("SOURCE",), ("OTHER_MODEL",), ("OTHER_LABELS",)):
            settings = {name: (str(tmp_path / value[0]),)}
        elif name == "attributes":
            settings = {name: str(tmp_path / value)}
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path / "SOURCE", **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "vectors.json").exists()


def test_people_who_are_not_known_are_one_line(tmp_path, run):
    write(tmp_path / "source", world(people=False))
    with pytest.raises(UserError, match="who is on which image is not known"):
        run(tmp_path / "source", withdraw_people=(7,))


def test_the_folder_of_the_source_is_not_written_to(tmp_path, run, store):
    folder = write(tmp_path / "out", world())
    with pytest.raises(UserError, match="attribute_vectors"):
        run(folder)
