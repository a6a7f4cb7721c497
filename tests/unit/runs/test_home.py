"""A user whom the system does not know has a home and a name before libraries ask for them."""

import getpass
import os
import pwd
import tempfile
from pathlib import Path

import pytest

from facevae.errors import UserError
from facevae.runs.home import provide_home

NAMES = ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME")


def unknown(user: int):
    raise KeyError(f"getpwuid(): uid not found: {user}")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """Where the home of a user without an entry in passwd would be made: this process's user."""
    for name in NAMES:
        monkeypatch.setenv(name, "")  # restored after the test, whatever is set in it
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"facevae-home-{os.getuid()}"


def test_such_a_user_has_neither(home):
    with pytest.raises(RuntimeError):
        Path.home()
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()


@pytest.mark.parametrize("given", [None, "/", "/nonexistent"])
def test_a_user_without_a_home_gets_one_of_their_own(home, monkeypatch, given):
    if given is not None:
        monkeypatch.setenv("HOME", given)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != Path("/"))
    provide_home()
    assert Path.home() == home
    assert Path("~/x").expanduser() == home / "x"
    assert home.stat().st_mode & 0o777 == 0o700
    assert getpass.getuser() == str(os.getuid())
    before = dict(os.environ)
    provide_home()
    assert dict(os.environ) == before


def test_one_that_is_there_is_used_again(home):
    home.mkdir()
    (home / "token").touch()
    provide_home()
    assert (Path.home() / "token").exists()


def test_a_folder_of_another_user_or_a_link_is_refused(home, monkeypatch):
    home.symlink_to(home.parent)
    with pytest.raises(UserError, match=r"no home, and .* is another user's: set HOME"):
        provide_home()
    home.unlink()
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    home.with_name(f"facevae-home-{owner + 1}").mkdir()
    with pytest.raises(UserError, match=r"no home, and .* is another user's: set HOME"):
        provide_home()


def test_who_is_known_keeps_all(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "me")
    provide_home()
    assert (os.environ["HOME"], os.environ["USER"]) == (str(tmp_path), "me")
    assert not any(tmp_path.iterdir())
