"""A pass whose actors and driver are killed leaves what a quiet one leaves, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
import torch

from facevae.checkpoint import ModelCard, save_model
from facevae.config import ModelConfig, ShardsConfig
from facevae.data.shards import read_manifest, read_shard
from facevae.models import build_vae
from facevae.verbs.shards import shard_faces

SECONDS = 180


@pytest.fixture(scope="module")
def inputs(ray_cluster, tmp_path_factory) -> Path:
    """A folder with 400 faces in shards of 16, and a model that never learnt."""
    folder = tmp_path_factory.mktemp("inputs")
    shard_faces(
        ShardsConfig(
            output=str(folder / "shards"),
            drawn={"count": 400, "seed": 3},
            sharding={"image_size": 64, "images_per_shard": 16},
            tracking={"system_metrics": False},
        )
    )
    (folder / "model").mkdir()
    torch.manual_seed(0)
    config = ModelConfig(latent_size=12)
    card = ModelCard(config, 0, "shards", "run")
    save_model(folder / "model", build_vae(config).state_dict(), card)
    return folder


class Pass:
    """`facevae attributes` as a user starts it, with whatever it starts."""

    def __init__(self, inputs: Path, output: Path) -> None:
        words = {
            "--output": output, "--shards": inputs / "shards", "--model": inputs / "model",
            "--encoding.actors": 2, "--encoding.batch_size": 64, "--encoding.min_count": 5,
            "--encoding.tries": 10, "--tracking.system_metrics": "false",
        }  # fmt: skip
        self.statistics = output / "statistics"
        self._log = (output.parent / f"{output.name}.log").open("ab")
        self.driver = subprocess.Popen(
            [Path(sys.executable).with_name("facevae"), "attributes"]
            + [str(word) for pair in words.items() for word in pair],
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def finished(self) -> int:
        """How many shards are encoded."""
        return len(list(self.statistics.glob("[!.]*.npz")))

    def wait_for(self, shards: int) -> None:
        deadline = time.monotonic() + SECONDS
        while self.finished() < shards:
            assert self.driver.poll() is None, Path(self._log.name).read_text()[-3000:]
            assert time.monotonic() < deadline, "the pass does not get on"
            time.sleep(0.005)

    def kill_an_actor(self) -> None:
        """SIGKILL to one of its encoder actors."""
        children = psutil.Process(self.driver.pid).children(recursive=True)
        actors = [each for each in children if "ray::MapWorker" in " ".join(each.cmdline())]
        assert actors, [each.cmdline() for each in children]
        actors[0].send_signal(signal.SIGKILL)

    def kill_the_driver(self) -> None:
        """SIGKILL to the driver; Ray ends what it had started."""
        children = psutil.Process(self.driver.pid).children(recursive=True)
        self.driver.kill()
        self.driver.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
        for process in alive:  # Ray's agents take their time
            process.kill()

    def end(self) -> None:
        assert self.driver.wait(SECONDS) == 0, Path(self._log.name).read_text()[-3000:]


@pytest.fixture(scope="module")
def outputs(inputs, tmp_path_factory) -> tuple[Path, Path]:
    """What a quiet pass left, and one whose actors were killed twice and the driver once."""
    folder = tmp_path_factory.mktemp("passes")
    quiet, killed = folder / "quiet", folder / "elsewhere" / "killed"
    killed.parent.mkdir()
    Pass(inputs, quiet).end()

    first = Pass(inputs, killed)
    first.wait_for(2)
    first.kill_an_actor()
    first.wait_for(7)
    first.kill_the_driver()
    done = first.finished()
    kept = {path: path.stat().st_mtime_ns for path in first.statistics.glob("[!.]*.npz")}
    shards = len(read_manifest(str(inputs / "shards")).shards)
    assert done < shards, "the driver was killed too late"

    second = Pass(inputs, killed)
    second.wait_for(done + 2)
    second.kill_an_actor()
    second.end()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "a finished shard was redone"
    return quiet, killed


def test_vectors_and_statistics_are_those_of_the_quiet_pass_bit_for_bit(outputs):
    quiet, killed = outputs
    files = [quiet / "attribute_vectors.h5", *sorted((quiet / "statistics").iterdir())]
    assert len(files) > 20
    for file in files:
        assert file.read_bytes() == (killed / file.relative_to(quiet)).read_bytes(), file.name
    visible = {p.name for p in (killed / "statistics").iterdir() if not p.name.startswith(".")}
    assert visible == {p.name for p in (quiet / "statistics").iterdir()}


def test_every_image_of_the_manifest_is_counted_once(outputs, inputs):
    folder = str(inputs / "shards")
    manifest = read_manifest(folder)
    expected = Counter(i for s in manifest.shards for i in read_shard(folder, s.name).image_ids)
    with h5py.File(outputs[1] / "attribute_vectors.h5") as file:
        found = Counter(name.decode() for name in file["image_ids"][:])
        splits = Counter(split.decode() for split in file["splits"][:])
    assert found == expected
    assert set(found.values()) == {1}
    assert splits == {split: manifest.rows(split) for split in ("train", "val", "test")}
    counts = Counter()
    for shard in manifest.shards:
        with np.load(outputs[1] / "statistics" / f"{shard.name}.npz") as arrays:
            counts[shard.split] += int(arrays["count"]) + int(arrays["rejected"])
    assert counts == splits


def test_the_figures_are_the_same_but_for_the_speed(outputs):
    quiet, killed = (json.loads((output / "result.json").read_text()) for output in outputs)
    assert quiet.pop("images_per_second")
    assert killed.pop("images_per_second")
    np.testing.assert_equal(killed, quiet)
