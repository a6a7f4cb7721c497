"""Retries: what failed is run again after the others; what fails too often is named."""

import os
import subprocess
import sys

import pytest

from facevae.errors import UserError
from facevae.runs import storage
from facevae.runs.retries import DIED, LOST_ROUNDS, Attempts, run_with_retries


@pytest.fixture(params=["disk", "s3"])
def attempts(request, tmp_path) -> Attempts:
    folder = str(tmp_path) if request.param == "disk" else request.getfixturevalue("s3")
    return Attempts(folder, 2)


def fail(error: Exception) -> None:
    raise error


def test_an_error_becomes_a_row_of_one_line_and_leaves_no_mark(attempts):
    for _ in range(3):
        assert attempts.row("a", lambda: None) == {"name": ["a"], "error": [""]}
        row = attempts.row("a", lambda: fail(ZeroDivisionError("number\n1")))
        assert row == {"name": ["a"], "error": ["ZeroDivisionError: number 1"]}
    assert storage.names(f"{attempts.output}/tries/a") == []


def test_a_death_is_counted_until_the_next_command(tmp_path):
    attempts = Attempts(str(tmp_path), 2)
    code = "import os, sys; from facevae.runs.retries import Attempts\n"
    code += "Attempts(sys.argv[1], 2).row('a', lambda: os.kill(os.getpid(), 9))"
    for _ in range(2):
        assert attempts.row("a", lambda: None)["error"] == [""]
        command = [sys.executable, "-c", code, str(tmp_path)]
        assert subprocess.run(command, env=dict(os.environ), check=False).returncode == -9
    row = attempts.row("a", lambda: pytest.fail("a third attempt"))
    assert row == {"name": ["a"], "error": [DIED]}
    assert attempts.row("b", lambda: None)["error"] == [""]
    run_with_retries(attempts, lambda: [], lambda shards: {})
    assert storage.names(str(tmp_path)) == []


def test_a_full_disk_is_said_though_no_attempt_could_be_counted(tmp_path, monkeypatch):
    def full(uri, value, **_):
        raise UserError(f"cannot write {uri}: the disk is full")

    monkeypatch.setattr(storage, "write_json", full)
    row = Attempts(str(tmp_path), 2).row("a", lambda: pytest.fail("it must not begin"))
    assert row["error"][0].endswith("a/0.json: the disk is full")


def run_shards(attempts: Attempts, failures: dict[str, list[str]]) -> list[str]:
    """Run the shards a, b and c; each has its failures, one per attempt.

    "" is a result that was lost. Returns what was finished, in order.
    """
    finished: list[str] = []

    def run(shards) -> dict[str, str]:
        failed = {shard: failures[shard].pop(0) for shard in shards if failures.get(shard)}
        finished.extend(shard for shard in shards if shard not in failed)
        return {shard: reason for shard, reason in failed.items() if reason}

    run_with_retries(attempts, lambda: [s for s in "abc" if s not in finished], run)
    return finished


@pytest.mark.parametrize("failure", ["E: once", ""])
def test_a_shard_that_fails_once_is_run_again_after_the_others(attempts, failure):
    assert run_shards(attempts, {"a": [failure]}) == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("failures", "reason"),
    [(["first", "last"], "last"), (["first", ""], "its result was lost"), (["", "l"], "l")],
)
def test_a_shard_that_keeps_failing_is_named_with_its_last_reason(attempts, failures, reason):
    left = {"b": [*failures, "never reached"]}
    with pytest.raises(UserError) as failed:
        run_shards(attempts, left)
    assert str(failed.value).startswith(f"1 of 3 shards failed 2 times: b ({reason}); the others")
    assert left["b"] == ["never reached"]


def test_of_many_shards_that_fail_ten_are_named(tmp_path):
    names = [f"train-{number:05d}" for number in range(12)]
    with pytest.raises(UserError, match=r"12 of 12 shards failed once: .*\) and 2 more; the"):
        run_with_retries(Attempts(str(tmp_path), 1), lambda: names, lambda shards: {})


def test_a_job_goes_on_after_errors_that_it_survives_and_no_shard_pays_for_them(tmp_path, capsys):
    errors = [OSError("2"), OSError("a node\nwent")]
    finished: list[str] = []

    def run(shards) -> dict[str, str]:
        if errors:
            raise errors.pop()
        finished.extend(shards)
        return {}

    attempts = Attempts(str(tmp_path), 1)
    run_with_retries(attempts, lambda: [s for s in "ab" if s not in finished], run, (OSError,))
    assert finished == ["a", "b"]
    said = capsys.readouterr().err
    assert "warning: the shards that are left go on after OSError: a node went\n" in said


def test_errors_without_end_are_raised_at_last_and_others_at_once(attempts):
    errors: list[Exception] = []

    def run(shards) -> dict[str, str]:
        errors.append(ConnectionError(f"number {len(errors)}"))
        raise errors[-1]

    with pytest.raises(ConnectionError, match=f"number {LOST_ROUNDS}"):
        run_with_retries(attempts, lambda: ["a"], run, (OSError,))
    with pytest.raises(ConnectionError, match=f"number {LOST_ROUNDS + 1}"):
        run_with_retries(attempts, lambda: ["a"], run, (ValueError,))
