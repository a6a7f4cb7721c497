"""A pass whose actors and driver are killed leaves what a quiet one leaves, bit for bit.

`make killed-pass` runs it over 20,000 faces, with an actor killed every five seconds. The suite
has the same law, for all commands and more kinds of death, in `tests/chaos`.
"""

import hashlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import psutil
import pytest
import torch

from facevae.commands.shards import shard_faces
from facevae.config import ModelConfig, ShardsConfig
from facevae.data.shard_files import read_manifest, read_shard
from facevae.models import build_vae
from facevae.models.checkpoint import ModelCard, save_model

pytestmark = pytest.mark.long
FACES = int(os.environ.get("FACES", "400"))
KILL_EVERY = float(os.environ.get("KILL_EVERY", "inf"))
"""seconds between two kills, beside those at given shards"""
SHARDS = 25
SECONDS = 180
SLOWER = 2.0
"""how many times as long as the quiet pass it may take; of 400 faces its start is all"""


@pytest.fixture(scope="module")
def inputs(ray_cluster, tmp_path_factory) -> Path:
    """A folder with shards of faces, and a model that never learnt."""
    folder = tmp_path_factory.mktemp("inputs")
    shard_faces(
        ShardsConfig(
            output=str(folder / "shards"),
            drawn={"count": FACES, "seed": 3},
            sharding={"image_size": 64, "images_per_shard": FACES // SHARDS},
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

    def __init__(self, inputs: Path, output: Path, kill_every: float = KILL_EVERY) -> None:
        words = {
            "--output": output, "--shards": inputs / "shards", "--model": inputs / "model",
            "--encoding.actors": 2, "--encoding.batch_size": 64, "--encoding.min_count": 5,
            "--encoding.attempts": 1000, "--tracking.system_metrics": "false",
        }  # fmt: skip
        self.statistics, self.kills = output / "statistics", 0
        self._log = (output.parent / f"{output.name}.log").open("ab")
        self._kill_every, self._killed_at = kill_every, time.monotonic()
        self._chance = random.Random(0)
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
        """Wait until so many are; kill actors at intervals meanwhile."""
        self._wait(lambda: self.finished() >= shards)

    def _wait(self, is_over: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not is_over():
            assert not self.driver.poll(), Path(self._log.name).read_text()[-3000:]
            assert time.monotonic() < deadline, "the pass does not get on"
            if time.monotonic() > self._killed_at + self._kill_every:
                self.kill_an_actor()
            time.sleep(0.005)

    def kill_an_actor(self) -> None:
        """SIGKILL to one of its encoder actors, if there are any."""
        self._killed_at = time.monotonic()
        children = psutil.Process(self.driver.pid).children(recursive=True)
        actors = [each for each in children if "ray::MapWorker" in _command(each)]
        if actors:
            self._chance.choice(actors).send_signal(signal.SIGKILL)
            self.kills += 1

    def kill_the_driver(self) -> None:
        """SIGKILL to the driver; Ray ends what it had started."""
        children = psutil.Process(self.driver.pid).children(recursive=True)
        self.driver.kill()
        self.driver.wait()
        _, alive = psutil.wait_procs(children, timeout=1)
        for process in alive:  # Ray's agents take ten seconds, for which the next need not wait
            process.kill()

    def end(self) -> None:
        """Wait until it ends by itself."""
        self._wait(lambda: self.driver.poll() is not None)


def _command(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


class Passes(NamedTuple):
    """What the two left, how long they took, and how often an actor was killed."""

    quiet: Path
    killed: Path
    seconds: tuple[float, float]
    kills: int


@pytest.fixture(scope="module")
def passes(inputs, tmp_path_factory) -> Passes:
    """A quiet pass, and one whose actors were killed twice or more and the driver once."""
    folder = tmp_path_factory.mktemp("passes")
    quiet, killed = folder / "quiet", folder / "elsewhere" / "killed"
    killed.parent.mkdir()
    times = [time.monotonic()]
    Pass(inputs, quiet, kill_every=math.inf).end()
    times.append(time.monotonic())

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
    times.append(time.monotonic())
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "a finished shard was redone"
    assert min(first.kills, second.kills) >= 1
    return Passes(quiet, killed, tuple(np.diff(times)), first.kills + second.kills)


def test_vectors_and_statistics_are_those_of_the_quiet_pass_bit_for_bit(passes):
    quiet, killed = passes.quiet, passes.killed
    files = [quiet / "attribute_vectors.h5", *sorted((quiet / "statistics").iterdir())]
    assert len(files) > 20
    for file in files:
        assert file.read_bytes() == (killed / file.relative_to(quiet)).read_bytes(), file.name
        print(hashlib.sha256(file.read_bytes()).hexdigest(), file.relative_to(quiet))
    visible = {p.name for p in (killed / "statistics").iterdir() if not p.name.startswith(".")}
    assert visible == {p.name for p in (quiet / "statistics").iterdir()}


def test_every_image_of_the_manifest_is_counted_once(passes, inputs):
    folder = str(inputs / "shards")
    manifest = read_manifest(folder)
    expected = Counter(i for s in manifest.shards for i in read_shard(folder, s.name).image_ids)
    with h5py.File(passes.killed / "attribute_vectors.h5") as file:
        found = Counter(name.decode() for name in file["image_ids"][:])
        splits = Counter(split.decode() for split in file["splits"][:])
    assert found == expected
    assert set(found.values()) == {1}
    assert splits == {split: manifest.rows(split) for split in ("train", "val", "test")}
    counts = Counter()
    for shard in manifest.shards:
        with np.load(passes.killed / "statistics" / f"{shard.name}.npz") as arrays:
            counts[shard.split] += int(arrays["count"]) + int(arrays["rejected"])
    assert counts == splits


def test_the_figures_are_the_same_but_for_the_speed(passes):
    quiet, killed = (json.loads((p / "result.json").read_text()) for p in passes[:2])
    assert quiet.pop("images_per_second")
    assert killed.pop("images_per_second")
    np.testing.assert_equal(killed, quiet)


def test_kills_cost_less_than_the_quiet_pass_takes(passes):
    quiet, killed = passes.seconds
    print(
        f"{FACES} faces: {quiet:.1f} s quiet, {killed:.1f} s ({killed / quiet:.2f} times as long) "
        f"with {passes.kills} actors and the driver killed"
    )
    if math.isfinite(KILL_EVERY):
        assert killed < SLOWER * quiet
