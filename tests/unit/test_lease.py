"""One driver at a time: a second is refused and told whose the folder is; a dead one is no bar."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from facevae import lease, storage
from facevae.config import AttributesConfig, ShardsConfig, TrainConfig
from facevae.errors import UserError
from facevae.lease import Lease, one_driver
from facevae.verbs.attributes import compute_attributes
from facevae.verbs.shards import shard_faces
from facevae.verbs.train import train_model

HOLD = """
import sys, time
from facevae.lease import one_driver
with one_driver(sys.argv[1], "facevae train", "job-7"):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture(params=["disk", "s3"])
def folder(request, tmp_path) -> str:
    return str(tmp_path) if request.param == "disk" else request.getfixturevalue("s3")


@pytest.fixture
def other(folder):
    """Another process that drives the folder."""
    command = [sys.executable, "-c", HOLD, folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def read(folder: str) -> dict:
    return json.loads(storage.read_bytes(f"{folder}/{lease.NAME}"))


def test_a_second_driver_is_refused_and_told_who_the_first_is(folder, other):
    with pytest.raises(UserError) as refused, one_driver(folder, "facevae train"):
        pytest.fail("two drivers at once")
    message = str(refused.value)
    assert f"process {other.pid} on {os.uname().nodename}, since 20" in message
    assert "facevae train, job job-7" in message
    assert "\n" not in message


def test_a_killed_driver_does_not_block_the_next(folder, other):
    other.kill()
    started = time.monotonic()
    with one_driver(folder, "facevae train"):
        assert read(folder)["pid"] == os.getpid()
    assert time.monotonic() - started < 5


def test_a_folder_is_free_after_its_driver_ended_well_or_not(folder):
    with pytest.raises(ZeroDivisionError), one_driver(folder, "facevae train"):
        raise ZeroDivisionError
    with one_driver(folder, "facevae train"):
        assert read(folder)["ended"] is None
    assert read(folder)["ended"]


def test_the_same_process_is_refused_too(tmp_path):
    with one_driver(str(tmp_path), "a"), pytest.raises(UserError, match=r"a \(process"), \
            one_driver(str(tmp_path), "b"):  # fmt: skip
        pytest.fail("two drivers at once")


def foreign(folder: str, **changes) -> Lease:
    """A lease of a driver on another machine."""
    values = vars(Lease.of_this_process("facevae shards", None))
    holder = Lease(**{**values, "machine": "elsewhere", "host": "elsewhere", **changes})
    Path(folder, lease.NAME).write_bytes(holder.to_bytes())
    return holder


def test_a_number_that_was_given_to_another_process_is_no_bar(tmp_path):
    values = vars(Lease.of_this_process("facevae shards", None))
    started = psutil.Process().create_time() - 100
    gone = Lease(**{**values, "process_started": started})
    (tmp_path / lease.NAME).write_bytes(gone.to_bytes())
    with one_driver(str(tmp_path), "facevae shards"):
        pass


def test_a_lease_of_another_machine_is_stale_once_it_does_not_change(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.5)
    foreign(str(tmp_path))
    with one_driver(str(tmp_path), "facevae shards"):
        assert read(str(tmp_path))["pid"] == os.getpid()


def test_a_lease_of_another_machine_that_is_refreshed_is_respected(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "STALE_SECONDS", 5)
    monkeypatch.setattr(lease.time, "sleep", lambda _: foreign(str(tmp_path), refreshed=2))
    foreign(str(tmp_path), refreshed=1)
    with pytest.raises(UserError, match="on elsewhere"), one_driver(str(tmp_path), "x"):
        pytest.fail("two drivers at once")


def test_a_lease_of_another_machine_that_ends_meanwhile_is_no_bar(tmp_path, monkeypatch):
    monkeypatch.setattr(lease.time, "sleep", lambda _: foreign(str(tmp_path), ended="now"))
    foreign(str(tmp_path))
    with one_driver(str(tmp_path), "x"):
        assert read(str(tmp_path))["verb"] == "x"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"pid": "x"}', b"\xff\x00"])
def test_a_lease_that_is_no_lease_is_no_bar(tmp_path, content):
    (tmp_path / lease.NAME).write_bytes(content)
    with one_driver(str(tmp_path), "facevae shards"):
        pass


def test_a_lease_is_kept_fresh(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "REFRESH_SECONDS", 0.02)
    with one_driver(str(tmp_path), "facevae shards"):
        wait_until(lambda: read(str(tmp_path))["refreshed"] > 2)
        (tmp_path / lease.NAME).unlink()  # by hand
        wait_until(lambda: (tmp_path / lease.NAME).exists())


def test_a_driver_whose_lease_was_taken_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "REFRESH_SECONDS", 0.05)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    @one_driver(str(tmp_path), "facevae shards")
    def lose_it() -> None:
        foreign(str(tmp_path))
        time.sleep(20)
        pytest.fail("was not stopped")

    try:
        with pytest.raises(UserError, match=r"another took over: facevae shards .* on elsewhere"):
            lose_it()
    finally:
        signal.signal(signal.SIGINT, before)
    assert read(str(tmp_path))["host"] == "elsewhere"


def wait_until(is_so) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_shards_and_train_refuse_a_folder_in_use(tmp_path):
    output = str(tmp_path)
    with one_driver(output, "first"):
        for run, config in (
            (shard_faces, ShardsConfig(output=output, drawn={"count": 2})),
            (train_model, TrainConfig(output=output, loss={"reconstruction": "pixel"})),
        ):
            with pytest.raises(UserError, match=r"another driver is at work .*: first"):
                run(config)
    assert [path.name for path in tmp_path.iterdir()] == [lease.NAME]


def test_attributes_refuse_a_folder_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr("facevae.verbs.attributes.read_manifest", lambda folder: None)
    monkeypatch.setattr("facevae.verbs.attributes.load_model", lambda folder: None)
    (tmp_path / "model.json").touch()
    config = AttributesConfig(output=str(tmp_path), shards="shards", model=str(tmp_path))
    with one_driver(str(tmp_path), "first"), pytest.raises(UserError, match=r"at work .*: first"):
        compute_attributes(config)
