"""Lines of progress that a watched command prints are read again."""

import pytest

from facevae.benchmark.watched_command import Step, read_step
from facevae.runs.progress import progress

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("train: 40/1000 steps loss 0.5", Step("train", 40, 1000, "steps", "loss 0.5")),
        ("shards: 2/2 images", Step("shards", 2, 2, "images", "")),
        ("loss 0.5", None),
        ("images/train 245", None),
        ("  train: 4/5 steps", None),
        ("error in x: 4/5", None),
    ],
)
def test_a_line_of_progress_is_told_from_others(line, step):
    assert read_step(line) == step


def test_what_is_written_is_read_again(capsys):
    with progress("encode", 3, "images") as bar:
        bar(3, "at 10 images/s")
    line = capsys.readouterr().err.rstrip()
    assert read_step(line) == Step("encode", 3, 3, "images", "at 10 images/s")
