"""Progress goes to stderr: a line now and then in a log, a bar on a terminal."""

import pytest

from facevae.runs import progress as module
from facevae.runs.progress import log, progress


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(clock, capsys):
    with progress("train", 5, "steps") as bar:
        for done in range(6):
            bar(done, f"loss {done}")
            bar(done, "again")
            clock.now += 4
        bar(5)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "train: 0/5 steps loss 0",
        "train: 3/5 steps loss 3",
        "train: 5/5 steps loss 5",
    ]


@pytest.mark.parametrize(("seconds", "lines"), [("0", 6), ("4", 6), ("9", 3), ("soon", 3)])
def test_the_environment_says_how_often_a_log_gets_a_line(
    clock, capsys, monkeypatch, seconds, lines
):
    monkeypatch.setenv("FACEVAE_PROGRESS_SECONDS", seconds)
    with progress("train", 5, "steps") as bar:
        for done in range(6):
            bar(done)
            clock.now += 4
    assert len(capsys.readouterr().err.splitlines()) == lines


def test_the_end_is_told_however_soon_it_comes(clock, capsys):
    with progress("shards", 2, "images") as bar:
        for done in range(3):
            bar(done)
    assert capsys.readouterr().err.splitlines() == ["shards: 0/2 images", "shards: 2/2 images"]


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    with progress("encode", 4, "images") as bar:
        bar(4, "done")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "100%" in shown.err
    assert "4/4" in shown.err


def test_what_is_said_goes_to_stderr(capsys):
    log("already done: x")
    assert tuple(capsys.readouterr()) == ("", "already done: x\n")
