"""Shards that keep failing, and workers that die: the others are finished, and the job names it."""

import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
import torch
from PIL import Image
from ray import cloudpickle

from facevae.attributes import encode as encode_module
from facevae.attributes.encode import Encoded, encode_shards, plan_encoders
from facevae.config import EncodingConfig, ModelConfig, ShardsConfig
from facevae.data.images import decode_jpegs
from facevae.data.make_shards import make_shards
from facevae.data.shard_files import read_manifest, read_shard
from facevae.data.sources.synthetic.source import SyntheticSource
from facevae.errors import UserError
from facevae.models import build_vae
from facevae.models.checkpoint import LoadedModel, ModelCard
from facevae.pixels import model_input
from facevae.ray_cluster.nodes import cluster_nodes
from facevae.runs.retries import DIED

pytestmark = pytest.mark.usefixtures("ray_cluster")
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not import tests


@dataclass(frozen=True)
class PoisonedSource(SyntheticSource):
    """Drawn faces, one of which fails or kills who draws it, so many times."""

    poison: str = ""
    dies: bool = False
    marks: str = ""
    times: int = 1000

    def load(self, image_id: str) -> Image.Image:
        used = Path(self.marks)
        if image_id == self.poison and len(list(used.iterdir())) < self.times:
            (used / str(len(list(used.iterdir())))).touch()
            if self.dies:
                os.kill(os.getpid(), signal.SIGKILL)
            raise MemoryError("no room")
        return super().load(image_id)


def shard(tmp_path, **poison):
    marks = tmp_path / "marks"
    marks.mkdir(exist_ok=True)
    source = PoisonedSource(48, 3, marks=str(marks), **poison)
    config = ShardsConfig(
        output=str(tmp_path / "out"),
        drawn={"count": 48, "seed": 3},
        sharding={"image_size": 32, "images_per_shard": 10, "attempts": 2},
    )
    return make_shards(config, source, "run")


@pytest.mark.parametrize(("dies", "reason"), [(False, "MemoryError: no room"), (True, DIED)])
def test_a_shard_that_keeps_failing_is_named_and_the_others_are_written(tmp_path, dies, reason):
    with pytest.raises(UserError) as failed:
        shard(tmp_path, poison="000001.jpg", dies=dies)
    message = str(failed.value)
    assert "1 of " in message
    assert f"shards failed 2 times: val-00000 ({reason});" in message
    written = {path.stem for path in (tmp_path / "out" / "records").iterdir()}
    assert "val-00000" not in written
    assert len(list((tmp_path / "marks").iterdir())) == 2
    assert not (tmp_path / "out" / "manifest.json").exists()
    manifest = shard(tmp_path)  # mended
    assert manifest.rows() == 48
    assert {each.name for each in manifest.shards} == written | {"val-00000"}


def test_a_task_that_dies_once_is_run_again_and_nothing_else_happens(tmp_path):
    manifest = shard(tmp_path, poison="000001.jpg", dies=True, times=1)
    assert len(list((tmp_path / "marks").iterdir())) == 1
    (tmp_path / "quiet").mkdir()
    assert manifest.digest == shard(tmp_path / "quiet").digest


def encode_until(shards: Path, folder: Path, output: Path, marks: Path, times: int) -> Encoded:
    """Encode a folder's shards with a VAE that dies, so many times, at one image of one of them."""
    torch.manual_seed(0)
    vae = build_vae(ModelConfig(latent_size=4)).eval()
    first = torch.from_numpy(decode_jpegs(read_shard(str(shards), "train-00001").images[:1]))
    wanted = model_input(first, vae.image_size, vae.resize_method)[0]
    marks.mkdir(exist_ok=True)

    def die(module, inputs) -> None:
        count = len(list(marks.iterdir()))
        if count < times and torch.allclose(inputs[0][0], wanted, atol=1e-3):
            (marks / str(count)).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    vae.encoder.register_forward_pre_hook(die)
    model = LoadedModel(vae, ModelCard(ModelConfig(latent_size=4), 0, "", ""))
    config = EncodingConfig(actors=2, batch_size=32, precision="fp32", attempts=2)
    plan = plan_encoders(config, cluster_nodes())
    return encode_shards(str(folder), read_manifest(str(folder)), model, config, plan, str(output))


@pytest.fixture(scope="module")
def quiet(shards, tmp_path_factory) -> Path:
    """What is left by a pass that nothing happens to."""
    folder = tmp_path_factory.mktemp("quiet")
    encode_until(shards, shards, folder / "out", folder / "deaths", times=0)
    return folder / "out"


@pytest.fixture
def encode(shards, tmp_path):
    """Encodes the shards, or a folder of others; in `deaths` is a file for each death."""

    def run(output: Path, times: int, folder: Path = shards) -> Encoded:
        return encode_until(shards, folder, output, tmp_path / "deaths", times)

    return run


def statistics_of(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "statistics").iterdir()}


@pytest.mark.parametrize(
    "error",
    [
        ray.exceptions.ActorUnavailableError("The actor is temporarily unavailable", None),
        pytest.param(
            ray.exceptions.ActorUnschedulableError("its node doesn't exist any more"),
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_pass_goes_on_when_ray_loses_an_actor_of_its_own(
    encode, quiet, tmp_path, monkeypatch, capsys, error
):
    tasks = encode_module._tasks
    losses = [error]

    def lose(*arguments):
        if losses:
            raise losses.pop()
        return tasks(*arguments)

    monkeypatch.setattr(encode_module, "_tasks", lose)
    encode(tmp_path / "out", times=0)
    assert statistics_of(tmp_path / "out") == statistics_of(quiet)
    said = capsys.readouterr().err
    assert f"warning: the shards that are left go on after {type(error).__name__}: " in said


def test_what_a_killed_actor_had_finished_is_not_encoded_again(
    encode, quiet, tmp_path, monkeypatch
):
    output, tasks = tmp_path / "out", encode_module._tasks

    def finished_before_it_was_told(*arguments):
        shutil.copytree(quiet, output, dirs_exist_ok=True)
        return tasks(*arguments)

    monkeypatch.setattr(encode_module, "_tasks", finished_before_it_was_told)
    encode(output, times=1000)
    assert statistics_of(output) == statistics_of(quiet)
    assert list((tmp_path / "deaths").iterdir()) == []


def test_an_actor_that_keeps_dying_on_a_shard_gives_it_up(encode, tmp_path, shards):
    output = tmp_path / "out"
    with pytest.raises(UserError) as failed:
        encode(output, times=1000)
    assert f"shards failed 2 times: train-00001 ({DIED});" in str(failed.value)
    manifest = read_manifest(str(shards))
    finished = {path.stem for path in (output / "statistics").iterdir()}
    assert finished == {each.name for each in manifest.shards} - {"train-00001"}
    statistics = encode(output, times=0).statistics
    assert [each.shard for each in statistics] == [each.name for each in manifest.shards]
    assert ray.data.DataContext.get_current().max_errored_blocks == 0  # Ray's setting is back
    assert not (output / "tries").exists()


def test_a_damaged_shard_is_named_and_the_others_are_encoded(encode, tmp_path, shards):
    folder = tmp_path / "shards"
    shutil.copytree(shards, folder)
    damaged = folder / "data" / "train-00000.parquet"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"train-00000 \(damaged shard .*train-00000.parquet"):
        encode(tmp_path / "out", times=0, folder=folder)
    assert len(list((tmp_path / "out" / "statistics").iterdir())) == len(
        read_manifest(str(shards)).shards
    ) - 1  # fmt: skip


def test_a_finished_shard_whose_files_are_damaged_is_encoded_again(
    encode, quiet, tmp_path, capsys, shards
):
    output = shutil.copytree(quiet, tmp_path / "out")
    names = (
        "statistics/train-00000.npz",
        "statistics/train-00001.npz",
        "latents/train-00002.parquet",
    )
    before = {name: (output / name).read_bytes() for name in names}
    (output / names[0]).write_bytes(before[names[0]][:-40])
    flipped = bytearray(before[names[1]])
    flipped[len(flipped) // 2] ^= 1
    (output / names[1]).write_bytes(flipped)
    (output / names[2]).unlink()
    again = encode(output, times=0)
    rows = {shard.name: shard.rows for shard in read_manifest(str(shards)).shards}
    assert again.images == sum(rows[f"train-{n:05d}"] for n in range(3))
    assert "train-00000.npz is damaged" in capsys.readouterr().err
    assert {name: (output / name).read_bytes() for name in names} == before
