"""A log is shown once and whole; the exit code is the driver's; a stopped job is waited for."""

from collections.abc import AsyncGenerator
from unittest.mock import Mock

import pytest
from ray.job_submission import JobDetails, JobStatus

from facevae.errors import UserError
from facevae.submission import follow as module
from facevae.submission.follow import describe, exit_code, follow, stop

LOG = "Running entrypoint\ntrain: 1/4 steps loss 0.5\nhalf a line, and the rest\nloss 0.25\n"


def job(status: str, driver_exit_code: int | None = None) -> JobDetails:
    return JobDetails(
        type="SUBMISSION",
        submission_id="train-1",
        status=JobStatus(status),
        entrypoint="x",
        message="no such package",
        driver_exit_code=driver_exit_code,
    )


class Jobs:
    """A job whose log is cut off where each connection is told to, and whose states are scripted.

    A state may be an exception.
    """

    def __init__(self, cuts: list[int], states: list[JobDetails | Exception]) -> None:
        self.cuts, self.states, self.closed, self.stopped = cuts, states, 0, 0

    def job(self, submission_id: str) -> JobDetails:
        state = self.states.pop(0)
        if isinstance(state, Exception):
            raise state
        return state

    def stop_job(self, submission_id: str) -> None:
        self.stopped += 1

    def get_job_logs(self, submission_id: str) -> str:
        return LOG

    async def tail_job_logs(self, submission_id: str) -> AsyncGenerator[str, None]:
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
    assert exit_code(follow(jobs, "train-1", written.append)) == 0
    assert "".join(written) == LOG
    assert not jobs.cuts


def test_a_finished_job_is_shown_at_once(written):
    jobs = Jobs([], [job("FAILED", 2)])
    assert exit_code(follow(jobs, "train-1", written.append)) == 2
    assert "".join(written) == LOG


def test_a_reader_that_leaves_is_not_taken_for_a_broken_connection(written):
    jobs = Jobs([20], [job("RUNNING")])
    with pytest.raises(BrokenPipeError):
        follow(jobs, "train-1", Mock(side_effect=BrokenPipeError))
    assert jobs.closed == 1


def test_a_cluster_out_of_reach_is_waited_for_and_told_once(written, capsys):
    gone = ConnectionError("refused")
    states = [job("RUNNING"), gone, gone, job("RUNNING"), gone, job("SUCCEEDED", 0)]
    follow(Jobs([10, 0, 0, 30, 0], states), "train-1", written.append)
    assert "".join(written) == LOG
    assert capsys.readouterr().err == "the cluster is out of reach; trying again\n" * 2


def test_patience_ends(written, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_SECONDS", -1)
    gone = RuntimeError("Request failed with status code 502")
    with pytest.raises(RuntimeError):
        follow(Jobs([10], [job("RUNNING"), gone, gone]), "t", written.append)


def test_a_job_that_the_cluster_forgot_ends_it(written):
    jobs = Jobs([10], [job("RUNNING"), UserError("knows no job train-1")])
    with pytest.raises(UserError, match="knows no job train-1"):
        follow(jobs, "train-1", written.append)


def test_a_lost_end_of_the_log_is_told(written, capsys, monkeypatch):
    jobs = Jobs([10], [job("RUNNING"), job("FAILED")])
    monkeypatch.setattr(jobs, "get_job_logs", Mock(side_effect=RuntimeError("500")))
    assert exit_code(follow(jobs, "train-1", written.append)) == 1
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
    assert exit_code(job(status, driver)) == expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (job("SUCCEEDED", 0), "job train-1 succeeded"),
        (job("STOPPED"), "job train-1 was stopped"),
        (job("FAILED", 2), "job train-1 failed with exit code 2"),
        (job("FAILED"), "job train-1 failed: no such package"),
        (job("RUNNING"), "job train-1 is still RUNNING"),
    ],
)
def test_an_end_is_told_with_rays_words_if_there_was_no_driver(state, expected):
    assert describe(state) == expected


def test_stop_waits_until_it_is_stopped(written):
    jobs = Jobs([], [job("PENDING"), job("RUNNING"), job("RUNNING"), job("STOPPED")])
    assert stop(jobs, "train-1") == job("STOPPED")
    assert jobs.stopped == 3


def test_stop_does_not_wait_for_ever(written, monkeypatch):
    monkeypatch.setattr(module, "STOP_SECONDS", -1)
    assert stop(Jobs([], [job("RUNNING")]), "train-1") == job("RUNNING")


def test_a_finished_job_is_not_stopped(written):
    jobs = Jobs([], [job("SUCCEEDED")])
    assert stop(jobs, "train-1") == job("SUCCEEDED")
    assert jobs.stopped == 0
