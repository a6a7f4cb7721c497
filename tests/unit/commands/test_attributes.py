"""What a pass leaves beside its vectors, and what none of that may cost."""

import hashlib

import numpy as np
import pytest

from facevae.attributes.statistics import AttributeStatistics
from facevae.attributes.vectors import AttributeVectors, mean_difference
from facevae.commands.attributes import _why_missing
from facevae.commands.people import table_digest
from facevae.commands.write_vectors import draw
from facevae.data.shard_files import Manifest, Shard
from facevae.errors import UserError
from facevae.report import plots


class PicturesOfRun:
    """Stands in for a run: the names of the pictures logged."""

    def __init__(self):
        self.names = []

    def picture(self, name, image):
        self.names.append(name)


def vectors(attributes: int) -> AttributeVectors:
    random = np.random.default_rng(0)
    labels = random.choice(np.array([-1, 1], np.int8), (60, attributes))
    latents = random.normal(size=(60, 4))
    statistics = AttributeStatistics.of_batch(latents, np.ones_like(latents), labels)
    return mean_difference(statistics, [f"a{i}" for i in range(attributes)], min_count=1)


@pytest.mark.parametrize("attributes", [2, 150])
def test_both_pictures_are_written_and_logged(tmp_path, attributes):
    run = PicturesOfRun()
    draw(vectors(attributes), {f"a{i}": 0.6 for i in range(attributes)}, str(tmp_path), run)
    assert run.names == ["similarity.png", "auc.png"]
    assert {path.name for path in tmp_path.iterdir()} == set(run.names)


@pytest.mark.parametrize(
    "error", [MemoryError("63,250 pixels"), ValueError("Image size too large")]
)
def test_a_picture_that_fails_costs_neither_the_other_nor_the_result(
    tmp_path, monkeypatch, capsys, error
):
    def fail(*_):
        raise error

    monkeypatch.setattr(plots, "similarity_heatmap", fail)
    run = PicturesOfRun()
    draw(vectors(2), {"a0": 0.6}, str(tmp_path), run)
    assert run.names == ["auc.png"]
    assert f"similarity.png is missing ({type(error).__name__}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ({"train": 60}, "the shards have no images in their val and test splits"),
        ({"train": 60, "val": 0, "test": 0}, "the shards have no images in their val and test"),
        ({"train": 54, "val": 6}, "of 6 held-out images none has the attribute, or none lacks it"),
        ({"train": 1, "val": 900, "test": 200}, "of 1,100 held-out images none has the attribute"),
    ],
)
def test_a_score_that_is_missing_has_its_reason(rows, reason):
    shards = tuple(Shard(f"{s}-0", s, n, 1, "0") for s, n in rows.items())
    assert _why_missing(Manifest(("a",), 64, shards, {}, {}, {}, False)).startswith(reason)


def test_a_table_of_people_that_is_missing_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*people\.txt: .*; correct the path"):
        table_digest(str(tmp_path / "people.txt"))
    (tmp_path / "people.txt").write_text("a.jpg 1\n")
    assert table_digest(str(tmp_path / "people.txt")) == hashlib.sha256(b"a.jpg 1\n").hexdigest()
    assert table_digest(None) is None
