"""A run's checkpoints: only whole ones are used, failures are counted, the right ones stay."""

import errno
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import fsspec
import pytest
import torch

from facevae.config import ModelConfig, TrainingConfig
from facevae.errors import UserError
from facevae.models.checkpoint import ModelCard, TrainingState, on_host, save_training
from facevae.runs import storage
from facevae.training import checkpoint_manager as module
from facevae.training.checkpoint_manager import CheckpointManager

CONFIG = ModelConfig(latent_size=2)
FILES = ("model.safetensors", "model.json", "training.safetensors", "optimizer.pt", "training.json")


class Kept(NamedTuple):
    """A run's checkpoints, and what they have told the user."""

    checkpoints: CheckpointManager
    told: list[str]

    def save(self, *steps: int, losses: dict[int, float] | None = None) -> None:
        for step in steps:
            history = [{"step": s, "validation/loss": v} for s, v in (losses or {}).items()]
            self.checkpoints.save(step, history, lambda folder, step=step: write(folder, step))
        self.checkpoints.finish()


def state(step: int) -> TrainingState:
    weights = {"weight": torch.full((3, 3), step / 7)}
    return TrainingState(step, weights, dict(weights), {"step": step}, [{"step": float(step)}])


def write(folder: Path, step: int) -> None:
    save_training(folder, state(step), ModelCard(CONFIG, step, "shards", "run"), {})


def kept(output: str, **training) -> Kept:
    told: list[str] = []
    return Kept(CheckpointManager(output, TrainingConfig(**training), told.append), told)


@pytest.fixture(params=["disk", "s3"])
def output(request, tmp_path, monkeypatch) -> str:
    """An empty output folder, on disk and on S3."""
    monkeypatch.chdir(tmp_path)
    return str(tmp_path / "run") if request.param == "disk" else request.getfixturevalue("s3")


def change(uri: str, damage: Callable[[bytes], bytes | None]) -> None:
    filesystem, path = fsspec.core.url_to_fs(uri)
    content = damage(filesystem.cat_file(path))
    filesystem.rm_file(path)
    if content is not None:
        filesystem.pipe_file(path, content)


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES = {"truncated": lambda b: b[: len(b) // 2], "flipped": flip, "missing": lambda _: None}


def test_the_newest_comes_back_as_it_was(output):
    assert kept(output).checkpoints.newest() is None
    kept(output).save(3, 6)
    again = kept(output)
    found = again.checkpoints.newest()
    assert found is not None
    assert (found.step, found.optimizer, again.told) == (6, {"step": 6}, [])
    assert torch.equal(found.weights["weight"], state(6).weights["weight"])


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_one_before_is_taken_if_any_file_of_the_newest_is_damaged(output, damage):
    files = FILES[-2:] if output.startswith("s3") else FILES  # an object store is slow
    for number, name in enumerate(files):
        place = f"{output}/{number}"
        kept(place).save(3, 6)
        change(f"{place}/checkpoints/step_0000006/{name}", DAMAGES[damage])
        again = kept(place)
        assert again.checkpoints.newest().step == 3
        (line,) = again.told
        assert line.startswith(f"warning: checkpoint {place}/checkpoints/step_0000006 is not whole")
        assert line.endswith(f"from {place}/checkpoints/step_0000003, the one before")
        assert name in line
        again.save(6)  # trained anew
        assert kept(place).checkpoints.newest().step == 6


def test_if_none_is_whole_that_is_an_error_which_says_what_to_do(output):
    kept(output).save(3, 6)
    for step in (3, 6):
        change(f"{output}/checkpoints/step_000000{step}/optimizer.pt", flip)
    with pytest.raises(UserError, match=r"none of the 2 checkpoints .* remove that folder"):
        kept(output).checkpoints.newest()


def test_a_first_checkpoint_that_was_cut_off_is_no_reason_to_stop(output):
    kept(output).save(3)
    change(f"{output}/checkpoints/step_0000003/training.json", lambda _: None)
    again = kept(output)
    assert again.checkpoints.newest() is None
    assert "was not written to its end; starting from the beginning" in again.told[0]


def test_on_an_object_store_the_training_file_comes_last_and_goes_first(s3, tmp_path, monkeypatch):
    """So an upload that breaks off never looks whole, also where it replaces another."""
    monkeypatch.chdir(tmp_path)
    kept(s3).save(3)
    filesystem = storage.filesystem_of(s3)[0]
    monkeypatch.setattr(filesystem, "put_file", broken)
    again = kept(s3, failed_checkpoints_allowed=0)
    monkeypatch.setattr(module, "RETRY_SECONDS", ())
    with pytest.raises(UserError, match="step 3 could not be kept"):
        again.save(3)
    names = storage.names(f"{s3}/checkpoints/step_0000003")
    assert sorted(names) == sorted({*FILES} - {"training.json"})


def broken(*_args, **_options):
    raise OSError("the connection was reset")


class Disk:
    """Fails as long as it is told to."""

    def __init__(self) -> None:
        self.is_full = True

    def write(self, folder: Path) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(folder, 9)


def test_a_full_disk_is_loud_at_once_and_stops_training_after_the_number_allowed(output):
    run, disk = kept(output, failed_checkpoints_allowed=2), Disk()
    for step in (1, 2):
        run.checkpoints.save(step, [], disk.write)
        settle(run, step)
        run.checkpoints.check()
    assert len(run.told) == 2
    assert "the checkpoint of step 1 could not be kept" in run.told[0]
    assert "the disk is full" in run.told[0]
    assert "2 in a row" in run.told[1]
    run.checkpoints.save(3, [], disk.write)
    settle(run, 3)
    with pytest.raises(UserError, match=r"stopped: 3 checkpoints in a row .*the disk is full"):
        run.checkpoints.check()


def test_a_checkpoint_that_is_kept_ends_the_count(output):
    run, disk = kept(output, failed_checkpoints_allowed=1), Disk()
    for step, full in enumerate((True, False, True, False), 1):
        disk.is_full = full
        run.checkpoints.save(step, [], disk.write)
        settle(run, step)
    run.checkpoints.check()
    assert [line.split(" in a row")[0][-1] for line in run.told] == ["1", "1"]


def test_the_last_one_is_tried_again(output, monkeypatch):
    run, disk = kept(output, failed_checkpoints_allowed=0), Disk()
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.0, 0.0))
    run.checkpoints.save(9, [], disk.write)
    settle(run, 9)
    monkeypatch.setattr(time, "sleep", lambda _: setattr(disk, "is_full", False))
    run.checkpoints.finish()
    assert kept(output).checkpoints.newest().step == 9


def settle(run: Kept, step: int) -> None:
    """Wait for the write of a step."""
    assert run.checkpoints._newest.step == step
    run.checkpoints._written.result()


def test_the_newest_and_the_best_stay(output):
    losses = {1: 0.5, 2: 0.3, 3: 0.4, 4: float("nan"), 5: 0.3}
    run = kept(output, checkpoints_kept=2)
    run.save(1, 2, 3, 4, 5, 6, 7, losses=losses)
    assert run.checkpoints.steps() == [2, 6, 7]
    history = [{"step": s, "validation/loss": v} for s, v in losses.items()]
    assert run.checkpoints.best(history) == 2
    run.save(8, losses=losses | {8: 0.2})
    assert run.checkpoints.steps() == [7, 8]


def test_without_keep_best_only_the_newest_stay(output):
    run = kept(output, checkpoints_kept=2, keep_best=False)
    run.save(1, 2, 3, losses={1: 0.1})
    assert run.checkpoints.steps() == [2, 3]


def test_a_broken_one_takes_no_place_of_a_whole_one(output):
    kept(output).save(1, 2, 3)
    change(f"{output}/checkpoints/step_0000003/optimizer.pt", flip)
    run = kept(output, checkpoints_kept=3)
    run.checkpoints.newest()
    run.save(4)
    assert run.checkpoints.steps() == [1, 2, 4]


def test_half_a_folder_of_a_killed_writer_is_removed(tmp_path):
    run = kept(str(tmp_path))
    run.save(1)
    half = tmp_path / "checkpoints" / ".step_0000002.abcdefgh.partial"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    foreign = [".git", ".step_0000002.mine", "notes"]
    for name in foreign:
        (tmp_path / "checkpoints" / name).mkdir()
    run.checkpoints.remove_partial_writes()
    assert storage.names(str(tmp_path / "checkpoints")) == [*foreign, "step_0000001"]


def test_an_old_one_with_a_users_file_stays_whole_and_is_told_of_once(output):
    run = kept(output, checkpoints_kept=1, keep_best=False)
    run.save(1)
    storage.write_json(f"{output}/checkpoints/step_0000001/notes.json", "mine")
    run.save(2, 3, 4)
    assert run.checkpoints.steps() == [1, 4]
    (line,) = run.told
    assert f"{output}/checkpoints/step_0000001 is not removed" in line
    assert run.checkpoints.load(1).step == 1
    assert storage.read_json(f"{output}/checkpoints/step_0000001/notes.json") == "mine"


def test_one_that_is_trained_anew_leaves_a_users_file_where_it_is(output):
    kept(output).save(1, 2)
    storage.write_json(f"{output}/checkpoints/step_0000002/notes.json", "mine")
    change(f"{output}/checkpoints/step_0000002/optimizer.pt", flip)
    kept(output).save(2)
    assert kept(output).checkpoints.newest().step == 2
    assert storage.read_json(f"{output}/checkpoints/step_0000002/notes.json") == "mine"


def test_what_is_written_is_the_state_of_its_step_though_training_goes_on(tmp_path):
    """Ray's workers train on while a checkpoint is written."""
    live = state(1)
    copy = on_host(live)
    before = {name: tensor.clone() for name, tensor in live.weights.items()}
    for tensor in live.weights.values():
        tensor.zero_()
    for name, tensor in copy.weights.items():
        assert torch.equal(tensor, before[name]), name
    assert json.dumps(copy.history) == json.dumps(live.history)
