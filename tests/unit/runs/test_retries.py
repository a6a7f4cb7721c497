"""Retries: what failed is run again after the others; what fails too often is named."""

import pytest

from facevae.errors import UserError
from facevae.runs.retries import DIED, LOST_ROUNDS, reason_of, result_row, run_with_retries


def fail(error: Exception) -> None:
    raise error


def test_an_error_becomes_a_row_of_one_line():
    assert result_row("a", lambda: None) == {"name": ["a"], "error": [""]}
    row = result_row("a", lambda: fail(ZeroDivisionError("number\n1")))
    assert row == {"name": ["a"], "error": ["ZeroDivisionError: number 1"]}
    assert reason_of(UserError("the disk is full")) == "the disk is full"


def run_shards(failures: dict[str, list[str]]) -> list[str]:
    """Run the shards a, b and c, each twice at most; each has its failures, one per attempt.

    "" is the death of a process. Returns what was finished, in order.
    """
    finished: list[str] = []

    def run(shards) -> dict[str, str]:
        failed = {shard: failures[shard].pop(0) for shard in shards if failures.get(shard)}
        finished.extend(shard for shard in shards if shard not in failed)
        return {shard: reason for shard, reason in failed.items() if reason}

    run_with_retries(lambda: [each for each in "abc" if each not in finished], run, 2)
    return finished


@pytest.mark.parametrize("failure", ["E: once", ""])
def test_a_shard_that_fails_once_is_run_again_after_the_others(failure):
    assert run_shards({"a": [failure]}) == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("failures", "reason"), [(["first", "last"], "last"), (["first", ""], DIED), (["", "l"], "l")]
)
def test_a_shard_that_keeps_failing_is_named_with_its_last_reason(failures, reason):
    left = {"b": [*failures, "never reached"]}
    with pytest.raises(UserError) as failed:
        run_shards(left)
    assert str(failed.value).startswith(f"1 of 3 shards failed 2 times: b ({reason}); the others")
    assert left["b"] == ["never reached"]


def test_of_many_shards_that_fail_ten_are_named():
    names = [f"train-{number:05d}" for number in range(12)]
    with pytest.raises(UserError, match=r"12 of 12 shards failed once: .*\) and 2 more; the"):
        run_with_retries(lambda: names, lambda shards: {}, 1)


def test_a_job_goes_on_after_errors_that_it_survives_and_no_shard_pays_for_them(capsys):
    errors = [OSError("2"), OSError("a node\nwent")]
    finished: list[str] = []

    def run(shards) -> dict[str, str]:
        if errors:
            raise errors.pop()
        finished.extend(shards)
        return {}

    run_with_retries(lambda: [s for s in "ab" if s not in finished], run, 1, (OSError,))
    assert finished == ["a", "b"]
    said = capsys.readouterr().err
    assert "warning: the shards that are left go on after OSError: a node went\n" in said


def test_errors_without_end_are_raised_at_last_and_others_at_once():
    errors: list[Exception] = []

    def run(shards) -> dict[str, str]:
        errors.append(ConnectionError(f"number {len(errors)}"))
        raise errors[-1]

    with pytest.raises(ConnectionError, match=f"number {LOST_ROUNDS}"):
        run_with_retries(lambda: ["a"], run, 2, (OSError,))
    with pytest.raises(ConnectionError, match=f"number {LOST_ROUNDS + 1}"):
        run_with_retries(lambda: ["a"], run, 2, (ValueError,))
