"""A log is shown once and whole; the exit code is the driver's."""

import re
from collections.abc import AsyncGenerator
from unittest.mock import Mock

import pytest

from facevae.errors import UserError
from facevae.submission import follow as module
from facevae.submission.cluster import Job, UnreachableError
from facevae.submission.follow import follow, job_log

LOG = "Running entrypoint\ntrain: 1/4 steps loss 0.5\nhalf a line, and the rest\nloss 0.25\n"


def job(status: str, driver_exit_code: int | None = None) -> Job:
    return Job("train-1", status, "no such package", driver_exit_code, 0, 0, {})


class Jobs:
    """A job whose log is cut off where each connection is told to, and whose states are scripted.

    A state may be an exception.
    """

    def __init__(self, cuts: list[int], states: list[Job | Exception | None]) -> None:
        self.cuts, self.states, self.closed = cuts, states, 0

    def job(self, submission_id: str) -> Job | None:
        state = self.states.pop(0)
        if isinstance(state, Exception):
            raise state
        return state

    def log(self, submission_id: str) -> str | None:
        return LOG

    async def tail(self, submission_id: str) -> AsyncGenerator[str, None]:
        cut = self.cuts.pop(0)
        try:
            for start in range(0, cut, 7):
                yield LOG[start : min(start + 7, cut)]
        finally:
            self.closed += 1


@pytest.fixture
def written(monkeypatch) -> list[str]:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0)
    return []


@pytest.mark.parametrize(
    "cuts", [[len(LOG)], [0, 0, 0], [3, 20, 20, 11, 50], [60, 10], [len(LOG), 5, len(LOG)]]
)
def test_a_broken_connection_loses_nothing_and_repeats_nothing(written, cuts):
    states = [job("PENDING"), *[job("RUNNING")] * (len(cuts) - 1), job("SUCCEEDED", 0)]
    jobs = Jobs(list(cuts), states)
    assert follow(jobs, "train-1", written.append).exit_code == 0
    assert "".join(written) == LOG
    assert not jobs.cuts


def test_a_finished_job_is_shown_at_once(written):
    jobs = Jobs([], [job("FAILED", 2)])
    assert follow(jobs, "train-1", written.append).exit_code == 2
    assert "".join(written) == LOG


def test_a_reader_that_leaves_is_not_taken_for_a_broken_connection(written):
    jobs = Jobs([20], [job("RUNNING")])
    with pytest.raises(BrokenPipeError):
        follow(jobs, "train-1", Mock(side_effect=BrokenPipeError))
    assert jobs.closed == 1


def test_a_cluster_out_of_reach_is_waited_for_and_told_once(written, capsys):
    gone = UnreachableError("refused")
    states = [job("RUNNING"), gone, gone, job("RUNNING"), gone, job("SUCCEEDED", 0)]
    follow(Jobs([10, 0, 0, 30, 0], states), "train-1", written.append)
    assert "".join(written) == LOG
    assert capsys.readouterr().err == "the cluster is out of reach; trying again\n" * 2


def test_patience_ends(written, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_SECONDS", -1)
    with pytest.raises(UnreachableError):
        follow(Jobs([10], [job("RUNNING"), UnreachableError("refused")]), "t", written.append)


def test_a_job_that_the_cluster_forgot_ends_it(written):
    with pytest.raises(UserError, match="knows no job train-1"):
        follow(Jobs([10], [job("RUNNING"), None]), "train-1", written.append)


def test_a_lost_end_of_the_log_is_told(written, capsys, monkeypatch):
    jobs = Jobs([10], [job("RUNNING"), job("FAILED")])
    monkeypatch.setattr(jobs, "log", lambda _: None)
    assert follow(jobs, "train-1", written.append).exit_code == 1
    assert "".join(written) == LOG[:10]
    assert "the end of the log is lost" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "driver", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 2, 2),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, 143),
    ],
)
def test_exit_codes_are_those_of_a_shell(status, driver, expected):
    assert job(status, driver).exit_code == expected


def test_elsewhere_than_on_a_terminal_the_log_passes_through(capsys):
    with job_log() as write:
        for start in range(0, len(LOG), 5):
            write(LOG[start : start + 5])
    assert capsys.readouterr().out == LOG


def test_on_a_terminal_progress_is_a_bar_and_lines_scroll(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    with job_log() as write:
        write("shards: 1/2 images\nshards: 2/2 ima")
        write("ges\n[not markup] \x1b[31mred\x1b[0m\ntrain: 1/4 steps loss 0.5\n")
        write("train: 4/4 steps loss 0.25\nloss 0.25\nno end")
    shown = capsys.readouterr()
    assert shown.err == ""
    for text in ("shards: 2/2", "train: "):
        assert text not in shown.out
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.out)
    for text in ("2/2 images", "4/4 steps", "[not markup] red\n", "loss 0.25\n", "no end\n"):
        assert text in plain
    assert plain.index("2/2 images") < plain.index("[not markup]") < plain.index("4/4 steps")
    assert "\x1b[31mred" in shown.out
