"""Labels that allow no vector or no edit are found before anything is trained or encoded."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facevae.commands import attributes as attributes_command
from facevae.commands import quickstart as quickstart_command
from facevae.commands.check_labels import check_editing, check_source, check_vectors, count_labels
from facevae.commands.plan import describe_plan
from facevae.config import AttributesConfig, EditingConfig, QuickstartConfig, Split
from facevae.data.shard_files import (
    Manifest,
    ShardRows,
    read_manifest,
    write_manifest,
    write_shard,
)
from facevae.data.sources.make_source import make_source
from facevae.errors import UserError
from facevae.ray_cluster.nodes import Node

NAMES = ("Smiling", "Male", "Bald")
MakeShards = Callable[..., tuple[str, Manifest]]


@pytest.fixture
def make_shards(tmp_path) -> MakeShards:
    """Makes shards of labels by split, and returns their folder and manifest."""

    def make(**labels: list[list[int]]) -> tuple[str, Manifest]:
        folder = str(tmp_path / "shards")
        shards = []
        for split, rows in labels.items():
            for number, part in enumerate(np.array_split(np.array(rows, np.int8), 2)):
                ids = [f"{split}/{number}/{row}.jpg" for row in range(len(part))]
                name = f"{split}-{number:05d}"
                rows_of_shard = ShardRows(ids, [b""] * len(part), part)
                shards.append(write_shard(folder, name, split, rows_of_shard, 64))
        write_manifest(
            folder,
            Manifest(NAMES, 64, tuple(shards), source={}, preprocessing={}, quarantined={},
                     missing_labels=True),
        )  # fmt: skip
        return folder, read_manifest(folder)

    return make


def test_images_without_labels_give_no_vector_and_no_edit(tmp_path):
    folder = str(tmp_path)
    part = ShardRows(["a"], [b""], np.empty((1, 0), np.int8))
    shard = write_shard(folder, "train-00000", "train", part, 64)
    manifest = Manifest((), 64, (shard,), source={}, preprocessing={}, quarantined={},
                        missing_labels=False)  # fmt: skip
    for check in (
        lambda: check_vectors(folder, manifest, 1),
        lambda: check_editing(folder, manifest, EditingConfig(), 1),
    ):
        with pytest.raises(UserError, match="have no labels, and a vector needs some") as error:
            check()
        one_line(error)


def test_quickstart_asks_for_labels_before_it_makes_shards(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("image_id,Bald,Male\na.png,1,-1\n")
    given = {"images": str(tmp_path), "output": str(tmp_path / "out")}
    for labels, message in (
        ({}, "the images have no labels"),
        ({"attributes": str(tmp_path / "labels.csv")}, "Smiling"),
    ):
        config = QuickstartConfig(**given, **labels)
        with pytest.raises(UserError, match=message) as error:
            quickstart_command.quickstart(config)
        one_line(error)
        with pytest.raises(UserError, match=message):
            describe_plan("quickstart", config, [Node(2, 0, 8 * 2**30)], is_cluster=True)
    assert not (tmp_path / "out").exists()
    source = make_source(config, config.sharding)
    for settings in ({"mix": ["Bald=1"], "hold": ["Male"]}, {"random": 3}):
        check_source(source, EditingConfig(**settings))
    for settings in ({"mix": ["Bold=1"]}, {"attribute": ["Bald"], "hold": ["Mail"]}):
        with pytest.raises(UserError, match="did you mean"):
            check_source(source, EditingConfig(**settings))


def rows(smiling: int, others: int, unknown: int = 0) -> list[list[int]]:
    """Labels of faces that smile, that do not, and of which it is not known; all are male."""
    return [[1, 1, -1]] * smiling + [[-1, 1, -1]] * others + [[0, 1, -1]] * unknown


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_unknown_labels_count_for_neither():
    present, absent = count_labels(np.array(rows(3, 2, 9), np.int8))
    assert (present.tolist(), absent.tolist()) == ([3, 14, 0], [2, 0, 14])


@pytest.mark.parametrize(
    ("train", "found"),
    [
        (rows(1, 1), "1 images with it and 1 without"),
        (rows(9, 4), "9 images with it and 4 without"),
        (rows(4, 9), "4 images with it and 9 without"),
        (rows(9, 0), "9 images with it and 0 without"),
        (rows(0, 0, 9), "0 images with it and 0 without"),
    ],
)
def test_an_attribute_with_too_few_images_of_either_sign_is_one_line(
    make_shards: MakeShards, train: list[list[int]], found: str
):
    folder, manifest = make_shards(train=train, val=rows(50, 50))  # others do not count
    with pytest.raises(UserError, match="Smiling would get no vector") as error:
        check_editing(folder, manifest, EditingConfig(), 5)
    assert found in one_line(error)
    assert "encoding.min_count asks for 5 of each" in one_line(error)


@pytest.mark.parametrize("name", ["Male", "Bald"])
def test_each_attribute_to_edit_is_counted(make_shards: MakeShards, name: str):
    shards = make_shards(train=rows(9, 9))
    check_editing(*shards, EditingConfig(), 9)
    with pytest.raises(UserError, match=f"{name} would get no vector"):
        check_editing(*shards, EditingConfig(attribute=("Smiling", name)), 1)


def test_attributes_to_hold_are_counted_and_random_faces_need_none(make_shards: MakeShards):
    shards = make_shards(train=rows(30, 30))
    with pytest.raises(UserError, match="Male would get no vector"):
        check_editing(*shards, EditingConfig(hold=("Male",)), 25)
    check_editing(*shards, EditingConfig(attribute=("Male",), random=4), 25)
    with pytest.raises(UserError, match="no image 'nobody"):
        check_editing(*shards, EditingConfig(transfer="nobody.jpg"), 25)


def test_an_unknown_attribute_is_told_with_the_nearest(make_shards: MakeShards):
    with pytest.raises(UserError, match=r"no attribute 'Smilling' .* did you mean Smiling\?"):
        check_editing(*make_shards(train=rows(9, 9)), EditingConfig(attribute=("Smilling",)), 1)


def test_faces_that_are_not_there_are_found(make_shards: MakeShards):
    shards = make_shards(train=rows(9, 9), test=rows(2, 2))
    check_editing(*shards, EditingConfig(image_ids=("train/0/3.jpg", "test/1/1.jpg")), 5)
    with pytest.raises(
        UserError, match=r"no image 'x\.jpg' in .*: its 22 images run from"
    ) as error:
        check_editing(*shards, EditingConfig(image_ids=("train/0/3.jpg", "x.jpg")), 5)
    one_line(error)


@pytest.mark.parametrize(("others", "is_enough"), [(50, False), (64, True)])
def test_the_preset_counts_faces_without_a_smile_in_all_splits(
    make_shards: MakeShards, others: int, is_enough: bool
):
    shards = make_shards(train=rows(30, others), val=rows(5, 10))
    editing = EditingConfig(preset="facenet_smile")
    if is_enough:
        check_editing(*shards, editing, 25)
        return
    with pytest.raises(UserError, match=r"needs 74 faces .*, .* has 60") as error:
        check_editing(*shards, editing, 25)
    one_line(error)


@pytest.mark.parametrize("splits", [{"train": rows(4, 90)}, {"val": rows(90, 90)}, {}])
def test_labels_that_give_no_vector_at_all_are_one_line(
    make_shards: MakeShards, splits: dict[Split, list[list[int]]]
):
    with pytest.raises(UserError, match="no attribute gets a vector from") as error:
        check_vectors(*make_shards(**splits), 5)
    assert "with Smiling" in one_line(error)
    assert "encoding.min_count 5" in one_line(error)


def test_one_vector_is_enough_for_a_pass(make_shards: MakeShards):
    check_vectors(*make_shards(train=rows(5, 5)), 5)


def must_not_run(*_: Any, **__: Any) -> None:
    raise AssertionError("it came to the work")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Smiling would get no vector"),
        ({"editing": {"attribute": ["Glasses"]}}, "no attribute 'Glasses'"),
        ({"encoding": {"min_count": 1}, "editing": {"image_ids": ["x"]}}, "no image 'x'"),
    ],
)
def test_quickstart_finds_it_before_training(
    make_shards: MakeShards, tmp_path, monkeypatch, options, message
):
    folder, _ = make_shards(train=rows(1, 1), val=rows(1, 1))
    monkeypatch.setattr(quickstart_command, "train_model", must_not_run)
    config = QuickstartConfig(output=str(tmp_path / "run"), shards=folder, **options)
    with pytest.raises(UserError, match=message):
        quickstart_command.quickstart(config)
    assert not (tmp_path / "run").exists()


def test_a_pass_finds_it_before_it_needs_a_cluster(make_shards: MakeShards, monkeypatch):
    folder, manifest = make_shards(train=rows(1, 1))
    monkeypatch.setattr(attributes_command, "connect", must_not_run)
    config = AttributesConfig(shards=folder, model="unused")
    with pytest.raises(UserError, match="no attribute gets a vector"):
        attributes_command._prepare(config, manifest, None, {})


@pytest.mark.parametrize(
    ("command", "message"),
    [("quickstart", "Smiling would get no vector"), ("attributes", "no attribute gets a vector")],
)
def test_a_dry_run_finds_it_too(make_shards: MakeShards, tmp_path, command, message):
    folder, _ = make_shards(train=rows(1, 1), val=rows(1, 1))
    config: Any = QuickstartConfig(output=str(tmp_path / "run"), shards=folder)
    if command == "attributes":
        config = AttributesConfig(output=str(tmp_path / "run"), shards=folder, model="unused")
    with pytest.raises(UserError, match=message):
        describe_plan(command, config, [Node(8, 0)], is_cluster=True)


def test_damaged_labels_are_one_line(make_shards: MakeShards, tmp_path):
    shards = make_shards(train=rows(9, 9))
    (tmp_path / "shards" / "data" / "train-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="damaged shard") as error:
        check_editing(*shards, EditingConfig(), 1)
    one_line(error)
