"""SIGTERM, whenever it comes, ends a training soon, and leaves nothing running."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

REPOSITORY = Path(__file__).parents[2]
STEPS = 40
WORDS = [
    *("--model.latent_size", "8", "--loss.reconstruction", "pixel"),
    *("--training.steps", str(STEPS), "--training.global_batch_size", "24"),
    *("--training.checkpoint_every", "10", "--training.validate_every", "20"),
    *("--training.validation_images", "16", "--training.grid_every", "20"),
    *("--training.precision", "fp32", "--tracking.system_metrics", "false"),
]
SECONDS = 15
"""between the signal and the end: a checkpoint, a last word to MLflow, and the end of Ray"""


class Ended(NamedTuple):
    """How a training ended: its exit code, what it said, and how long it took after the signal."""

    code: int
    said: str
    seconds: float


def train(shards: Path, output: Path, workers: int, moment: float | None) -> Ended:
    """A training that is told to stop after some seconds, or never."""
    words = ["train", *WORDS, "--shards", shards, "--output", output]
    words += ["--scaling.workers", str(workers)]
    process = subprocess.Popen(
        [Path(sys.executable).with_name("facevae"), *words],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    parts: dict[int, psutil.Process] = {}
    began = asked = time.monotonic()
    while process.poll() is None and (moment is None or asked - began < moment):
        time.sleep(0.1)
        asked = time.monotonic()
        if moment is not None:  # the whole run is timed, undisturbed
            parts |= {p.pid: p for p in psutil.Process(process.pid).children(recursive=True)}
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    ended = Ended(process.returncode, said, time.monotonic() - asked)
    _, alive = psutil.wait_procs(list(parts.values()), timeout=10)
    assert not alive, f"still there after SIGTERM at {moment:.1f} s: {alive}"
    return ended


@pytest.mark.timeout(1_500)
@pytest.mark.parametrize(
    ("workers", "moments"),
    [
        (1, 3),
        pytest.param(1, 20, marks=pytest.mark.long),
        pytest.param(2, 20, marks=pytest.mark.long),
    ],
)
def test_a_training_ends_soon_whenever_it_is_told_to(shards, tmp_path, workers, moments):
    began = time.monotonic()
    assert train(shards, tmp_path / "whole", workers, None).code == 0
    whole = time.monotonic() - began
    for moment in (whole * (each + 0.5) / moments for each in range(moments)):
        ended = train(shards, tmp_path / f"{moment:.1f}", workers, moment)
        print(f"{moment:5.1f} of {whole:.1f} s: code {ended.code} after {ended.seconds:.1f} s")
        # For a moment, as it starts, Ray's native part has a handler of its own, which aborts.
        assert ended.code in (0, 143, -signal.SIGTERM, -signal.SIGABRT), ended.said
        assert ended.seconds < SECONDS, (moment, ended.said)
        assert "Traceback" not in ended.said, (moment, ended.said)
