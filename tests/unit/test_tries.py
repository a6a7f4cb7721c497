"""Tries: counted though the one who tries may die; what fails too often is named."""

import contextlib
import os
import subprocess
import sys

import pytest

from facevae import storage
from facevae.errors import UserError
from facevae.tries import DIED, LOST_RUNS, Tries, finish


@pytest.fixture(params=["disk", "s3"])
def tries(request, tmp_path) -> Tries:
    folder = str(tmp_path) if request.param == "disk" else request.getfixturevalue("s3")
    return Tries(folder, 2)


def fail(tries: Tries, part: str, error: Exception) -> None:
    with tries.one(part):
        raise error


def test_a_try_that_ends_well_is_not_counted(tries):
    for _ in range(3):
        with tries.one("a"):
            pass
    assert storage.names(f"{tries.output}/tries/a") == []


def test_errors_are_counted_for_each_part_and_then_refused(tries):
    for number in range(2):
        with pytest.raises(ZeroDivisionError):
            fail(tries, "a", ZeroDivisionError(f"number\n{number}"))
    with pytest.raises(UserError, match="had its 2 tries"), tries.one("a"):
        pytest.fail("a third try")
    assert tries.last_reason("a") == "ZeroDivisionError: number 1"
    with tries.one("b"):
        pass


def test_a_death_is_counted(tmp_path):
    code = "import os, sys; from facevae.tries import Tries\n"
    code += "with Tries(sys.argv[1], 2).one('a'): os.kill(os.getpid(), 9)"
    for _ in range(2):
        command = [sys.executable, "-c", code, str(tmp_path)]
        assert subprocess.run(command, env=dict(os.environ), check=False).returncode == -9
    with pytest.raises(UserError, match="had its 2 tries"), Tries(str(tmp_path), 2).one("a"):
        pytest.fail("a third try")
    assert Tries(str(tmp_path), 2).last_reason("a") == DIED


def run_parts(tries: Tries, errors: dict[str, list[Exception]]) -> list[str]:
    """Run the parts a, b and c; each raises its errors, one a try. Returns what was finished."""
    finished: list[str] = []

    def run(parts) -> None:
        for part in parts:
            try:
                with tries.one(part):
                    if errors.get(part):
                        raise errors[part].pop(0)
                finished.append(part)
            except ArithmeticError:
                pass

    finish(tries, lambda: [part for part in "abc" if part not in finished], run, "parts")
    return finished


def test_a_part_that_fails_once_is_tried_again_after_the_others(tries):
    assert run_parts(tries, {"a": [ArithmeticError("once")]}) == ["b", "c", "a"]
    assert storage.names(f"{tries.output}/tries") == []


def test_only_own_marks_are_forgotten(tries):
    mine = ("notes.json", ".git/1.json", "a/notes.json", "a/deep/1.json", "b/.keep")
    for name in mine:
        storage.write_json(f"{tries.output}/tries/{name}", "mine")
    with pytest.raises(ZeroDivisionError):
        fail(tries, "a", ZeroDivisionError())
    for name in ("ended.json", "b/.0.json.abcdefgh.partial", "c/0.json"):
        storage.write_json(f"{tries.output}/tries/{name}", 1)
    tries.forget()
    filesystem, path = storage.filesystem_of(f"{tries.output}/tries")
    left = {file.removeprefix(f"{path}/") for file in filesystem.find(path)}
    assert left == {*mine}
    assert storage.names(f"{tries.output}/tries") == [".git", "a", "b", "notes.json"]


def test_a_part_that_keeps_failing_is_named_with_its_last_reason(tries):
    errors = {"b": [ArithmeticError("first"), ArithmeticError("last")]}
    with pytest.raises(UserError) as failed:
        run_parts(tries, errors)
    assert str(failed.value).startswith("1 of 3 parts failed 2 times: b (ArithmeticError: last);")
    assert "\n" not in str(failed.value)
    assert not errors["b"]
    assert run_parts(tries, {}) == ["a", "b", "c"]  # the same command tries them again


def test_a_job_goes_on_after_errors_that_it_outlives_and_no_part_pays_for_them(tries, capsys):
    errors: list[Exception] = [ArithmeticError("a part's"), OSError("a node\nwent"), OSError("2")]
    finished: list[str] = []

    def run(parts) -> None:
        error = errors.pop() if errors else None
        if isinstance(error, OSError):
            raise error
        finished.extend(parts[error is not None :])

    finish(tries, lambda: [p for p in "ab" if p not in finished], run, "parts", (OSError,))
    assert finished == ["b", "a"]
    said = capsys.readouterr().err
    assert "warning: those parts that are left go on after OSError: a node went\n" in said


def test_errors_without_end_are_raised_at_last_and_others_at_once(tries):
    errors: list[Exception] = []

    def run(parts) -> None:
        errors.append(ConnectionError(f"number {len(errors)}"))
        raise errors[-1]

    with pytest.raises(ConnectionError, match=f"number {LOST_RUNS}"):
        finish(tries, lambda: ["a"], run, "parts", (OSError,))
    finish(tries, lambda: ["a"][len(errors) > 2 * LOST_RUNS :], run, "parts", (OSError,))
    with pytest.raises(ConnectionError):
        finish(tries, lambda: ["a"], run, "parts", (ValueError,))


def test_a_full_disk_is_said_though_no_try_could_be_counted(tmp_path, monkeypatch):
    def full(uri, value, **_):
        raise UserError(f"cannot write {uri}: the disk is full")

    monkeypatch.setattr(storage, "write_json", full)
    tries = Tries(str(tmp_path), 2)

    def run(parts) -> None:
        with contextlib.suppress(UserError), tries.one("a"):
            raise AssertionError("it must not begin")

    with pytest.raises(UserError, match="the disk is full"):
        finish(tries, lambda: ["a"], run, "parts")
