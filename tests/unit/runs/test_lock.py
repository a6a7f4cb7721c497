"""One driver at a time: a second is refused and told whose the folder is; a dead one is no bar."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import Mock

import fsspec
import psutil
import pytest
import s3fs
from botocore.exceptions import ClientError
from fsspec.asyn import sync
from s3fs.errors import translate_boto_error

from facevae.commands.attributes import compute_attributes
from facevae.commands.shards import shard_faces
from facevae.commands.train import train_model
from facevae.config import AttributesConfig, ShardsConfig, TrainConfig
from facevae.errors import UserError
from facevae.runs import lock, storage
from facevae.runs.lock import Owner, run_lock

pytestmark = pytest.mark.slow

FIRST = "driver.lock.000001"
OLD = "driver.json"
LOCK_HOLDER = Path(__file__).parents[2] / "drivers" / "lock_holder.py"
STORES = ["disk", "s3", "gcs"]


def place(store: str, request) -> str:
    return str(request.getfixturevalue("tmp_path" if store == "disk" else store))


@pytest.fixture(params=STORES)
def folder(request) -> str:
    return place(request.param, request)


def hold(folder: str) -> subprocess.Popen:
    command = [sys.executable, LOCK_HOLDER, folder]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )


@pytest.fixture
def other(folder):
    """Another process that drives the folder."""
    with hold(folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def read(folder: str, name: str = FIRST) -> dict:
    return json.loads(storage.read_bytes(f"{folder}/{name}"))


def write(folder: str, name: str, owner: Owner, **more) -> None:
    storage.write_json(f"{folder}/{name}", {**asdict(owner), **more})


def this_process(**changes) -> Owner:
    started = psutil.Process().create_time()
    owner = Owner("facevae x", None, "here", lock._this_machine(), os.getpid(), started, "1", "2")
    return replace(owner, **changes)


def elsewhere(**changes) -> Owner:
    return this_process(machine="elsewhere", host="elsewhere", **changes)


def test_a_driver_at_work_is_named_and_a_killed_one_does_not_block_the_next(folder, other):
    with pytest.raises(UserError) as refused, run_lock(folder, "facevae train"):
        pytest.fail("two drivers at once")
    message = str(refused.value)
    assert f"process {other.pid} on {os.uname().nodename}, since 20" in message
    assert "facevae train, job job-7" in message
    assert "\n" not in message
    other.kill()
    started = time.monotonic()
    with run_lock(folder, "facevae train"):
        assert storage.names(folder) == ["driver.lock.000002"]
        assert read(folder, "driver.lock.000002")["pid"] == os.getpid()
    assert time.monotonic() - started < 5
    assert storage.names(folder) == []


def test_a_folder_is_free_after_its_driver_ended_well_or_not(folder):
    with pytest.raises(ZeroDivisionError), run_lock(folder, "facevae train"):
        raise ZeroDivisionError
    with run_lock(folder, "facevae train"):
        assert storage.names(folder) == [FIRST]
    assert storage.names(folder) == []


@pytest.mark.parametrize("left", [[], [7, 8]])
def test_of_many_at_once_one_wins(folder, left):
    for number in left:  # by dead drivers
        write(folder, f"driver.lock.{number:06d}", this_process(process_started=1.0))
    count = 6
    begin, refused = threading.Barrier(count), threading.Barrier(count)

    def drive(number: int) -> str:
        begin.wait()
        try:
            with run_lock(folder, f"driver {number}"):
                refused.wait(60)
                return "held"
        except UserError as error:
            refused.wait(60)
            return str(error)

    with ThreadPoolExecutor(count) as pool:
        ends = list(pool.map(drive, range(count)))
    assert ends.count("held") == 1, ends
    winner = ends.index("held")
    assert all(f"at work on {folder}: driver {winner} (" in end for end in ends if end != "held")
    assert storage.names(folder) == []


def test_of_two_processes_at_once_one_wins(tmp_path):
    with hold(str(tmp_path)) as one, hold(str(tmp_path)) as other:
        said = [process.stdout.readline() for process in (one, other) if process.stdout]
        one.kill()
        other.kill()
        assert sorted(said) == ["", "held\n"]
        loser = (one, other)[said.index("")]
        assert loser.stderr is not None
        assert f"another driver is at work on {tmp_path}" in loser.stderr.read()


def test_google_is_asked_to_make_a_file_only_if_it_is_not_there(gcs, gcs_objects):
    with run_lock(gcs, "first"):
        before = dict(gcs_objects.content)
        assert not lock._create(f"{gcs}/{FIRST}", b"second")
        assert gcs_objects.content == before


@pytest.mark.parametrize("store", ["memory", "gcs"])
def test_a_store_without_conditions_is_said_to_be_unprotected(store, request, tmp_path, capsys):
    if store == "gcs":
        request.getfixturevalue("gcs_objects").honours_conditions = False
    folder = f"memory://{tmp_path}" if store == "memory" else place(store, request)
    with run_lock(folder, "first"), run_lock(folder, "second"):
        assert storage.names(folder) == []
    said = capsys.readouterr().err
    assert f"warning: this store has no locks: let no second driver write to {folder}\n" in said


def test_a_store_that_refuses_conditions_is_said_to_be_unprotected(s3, monkeypatch, capsys):
    answer_to(monkeypatch, "NotImplemented", lambda: None)
    with run_lock(s3, "first"):
        assert storage.names(s3) == []
    assert "warning: this store has no locks" in capsys.readouterr().err


def test_a_request_whose_answer_was_lost_counts(s3, monkeypatch):
    uri, sent = f"{s3}/{FIRST}", []
    original = lock._create

    def twice(uri: str, content: bytes) -> bool:
        if not sent:
            original(uri, content)
        sent.append(uri)
        return original(uri, content)

    monkeypatch.setattr(lock, "_create", twice)
    with run_lock(s3, "first"):
        assert storage.exists(uri)


def answer_to(monkeypatch, code: str, act) -> None:
    """Have S3 answer conditional puts with an error."""
    call = s3fs.S3FileSystem._call_s3

    async def refuse(self, method, *args, **kwargs):
        if "IfNoneMatch" in kwargs:
            act()
            answer = {"Error": {"Code": code, "Message": "a header"}}
            raise translate_boto_error(ClientError(answer, method))
        return await call(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", refuse)


@pytest.mark.parametrize("code", ["PreconditionFailed", "412", "ConditionalRequestConflict"])
def test_another_that_was_faster_is_respected_however_a_store_says_it(s3, monkeypatch, code):
    fs, path = fsspec.core.url_to_fs(f"{s3}/{FIRST}", use_listings_cache=False)
    content = json.dumps(asdict(this_process())).encode()
    put = s3fs.S3FileSystem._pipe_file
    answer_to(monkeypatch, code, lambda: None)
    names = storage.names

    def seen_before_the_other(uri):
        monkeypatch.setattr(storage, "names", names)
        found = names(uri)
        sync(fs.loop, put, fs, path, content)
        return found

    monkeypatch.setattr(storage, "names", seen_before_the_other)
    with pytest.raises(UserError, match=r"at work .*: facevae x"), run_lock(s3, "late"):
        pytest.fail("two drivers at once")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="in the way of the folder"):
        run_lock(str(tmp_path / "file"), "x").__enter__()


def test_the_same_process_is_refused_too(tmp_path):
    with run_lock(str(tmp_path), "a"), pytest.raises(UserError, match=r"a \(process"), \
            run_lock(str(tmp_path), "b"):  # fmt: skip
        pytest.fail("two drivers at once")


def test_a_number_that_was_given_to_another_process_is_no_bar(tmp_path):
    started = psutil.Process().create_time() - 100
    write(str(tmp_path), FIRST, this_process(process_started=started))
    with run_lock(str(tmp_path), "facevae shards"):
        pass


@pytest.mark.parametrize("name", [FIRST, OLD])
def test_a_lock_of_another_machine_is_stale_once_it_does_not_change(tmp_path, monkeypatch, name):
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.5)
    write(str(tmp_path), name, elsewhere())
    with run_lock(str(tmp_path), "facevae shards"):
        (path,) = tmp_path.iterdir()
        assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("name", [FIRST, OLD])
def test_a_lock_of_another_machine_that_beats_is_respected(tmp_path, monkeypatch, name):
    folder = str(tmp_path)
    monkeypatch.setattr(lock.time, "sleep", lambda _: write(folder, name, elsewhere(), beats=2))
    write(folder, name, elsewhere(), beats=1)
    with pytest.raises(UserError, match="on elsewhere"), run_lock(folder, "x"):
        pytest.fail("two drivers at once")


def test_a_lock_of_another_machine_that_is_given_back_meanwhile_is_no_bar(tmp_path, monkeypatch):
    file = tmp_path / FIRST
    write(str(tmp_path), FIRST, elsewhere())
    monkeypatch.setattr(lock.time, "sleep", lambda _: file.unlink())
    with run_lock(str(tmp_path), "x"):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"pid": "x"}', b"\xff\x00"])
@pytest.mark.parametrize("name", [FIRST, OLD])
def test_a_lock_that_is_none_is_no_bar_for_long(tmp_path, monkeypatch, content, name):
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.2)
    (tmp_path / name).write_bytes(content)
    with run_lock(str(tmp_path), "facevae shards"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_just_being_written_is_waited_for(tmp_path, monkeypatch):
    (tmp_path / FIRST).write_bytes(b"")
    monkeypatch.setattr(lock.time, "sleep", lambda _: write(str(tmp_path), FIRST, this_process()))
    with pytest.raises(UserError, match="at work"), run_lock(str(tmp_path), "x"):
        pytest.fail("two drivers at once")


def old_lease(folder: str, **changes) -> None:
    """The file of a driver of an earlier version."""
    values = asdict(this_process()) | {"refreshed": 3, "ended": None} | changes
    values["verb"] = values.pop("command")
    storage.write_json(f"{folder}/{OLD}", values)


def test_a_driver_of_an_earlier_version_is_respected(folder):
    old_lease(folder)
    with (
        pytest.raises(UserError, match=r"at work on .*: facevae x \(process"),
        run_lock(folder, "x"),
    ):
        pytest.fail("two drivers at once")
    assert storage.names(folder) == [OLD]


@pytest.mark.parametrize("change", [{"ended": "2026-01-01"}, {"process_started": 1.0}])
def test_a_driver_of_an_earlier_version_that_ended_is_no_bar_and_its_file_goes(folder, change):
    old_lease(folder, **change)
    with run_lock(folder, "x"):
        assert storage.names(folder) == [FIRST]


def test_a_lock_beats(folder, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.02)
    with run_lock(folder, "facevae shards"):
        wait_until(lambda: read(folder).get("beats", 0) > 2)


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_driver_whose_lock_was_taken_stops(tmp_path, monkeypatch, is_gone):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    second = Path(tmp_path, "driver.lock.000002")

    @run_lock(str(tmp_path), "facevae shards")
    def lose_it() -> None:
        write(str(tmp_path), second.name, elsewhere())
        (tmp_path / FIRST).unlink()
        if is_gone:
            second.unlink()
        time.sleep(20)
        pytest.fail("was not stopped")

    who = "one that has ended" if is_gone else "facevae x .* on elsewhere"
    try:
        with pytest.raises(UserError, match=f"another took over: {who}"):
            lose_it()
    finally:
        signal.signal(signal.SIGINT, before)
    assert list(tmp_path.iterdir()) == ([] if is_gone else [second])


def test_who_paused_between_looking_and_taking_does_not_keep_the_folder(folder, monkeypatch):
    """Two numbers at once: the one that was made by whoever saw the other is given up."""
    first = this_process(process_started=1.0)
    write(folder, "driver.lock.000005", first)
    create = lock._create

    def pause(uri: str, content: bytes) -> bool:
        monkeypatch.setattr(lock, "_create", create)
        storage.remove_file(f"{folder}/driver.lock.000005")
        write(folder, FIRST, this_process())
        return create(uri, content)

    monkeypatch.setattr(lock, "_create", pause)
    with pytest.raises(UserError, match="at work"), run_lock(folder, "late"):
        pytest.fail("two drivers at once")
    assert storage.names(folder) == [FIRST]


def wait_until(is_so) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_shards_and_train_refuse_a_folder_in_use(tmp_path):
    output = str(tmp_path)
    with run_lock(output, "first"):
        for run, config in (
            (shard_faces, ShardsConfig(output=output, drawn={"count": 2})),
            (train_model, TrainConfig(output=output, loss={"reconstruction": "pixel"})),
        ):
            with pytest.raises(UserError, match=r"another driver is at work .*: first"):
                run(config)
        assert [path.name for path in tmp_path.iterdir()] == [FIRST]


def test_attributes_refuse_a_folder_in_use(tmp_path, monkeypatch):
    named = Mock(**{"digest": "a digest", "rows.return_value": 5})
    monkeypatch.setattr("facevae.commands.attributes.read_manifest", lambda folder: named)
    monkeypatch.setattr("facevae.commands.attributes.load_model", lambda folder: Mock(card=named))
    (tmp_path / "model.json").touch()
    config = AttributesConfig(output=str(tmp_path), shards="shards", model=str(tmp_path))
    with run_lock(str(tmp_path), "first"), pytest.raises(UserError, match=r"at work .*: first"):
        compute_attributes(config)
