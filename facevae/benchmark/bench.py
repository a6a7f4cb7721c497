"""Where a benchmark keeps its things, and how it runs the commands of this program."""

import json
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from facevae.benchmark.face_network import random_face_network
from facevae.benchmark.watched_command import Moment, Watched, run_command
from facevae.config import BenchmarkConfig, Settings, ShardsConfig, TrainConfig

LOGGED_ROWS = 8
"""logged rates of one training"""


class Bench:
    """A folder of a benchmark, and the store that its runs are tracked in."""

    def __init__(self, config: BenchmarkConfig, folder: Path, tracking_uri: str) -> None:
        self.config, self.folder = config, folder
        self.tracking = {"uri": tracking_uri, "experiment": "benchmark", "system_metrics": False}
        self._numbers = count()

    def run(
        self,
        command: str,
        config: Settings,
        at: Callable[[Moment, psutil.Process], None] | None = None,
    ) -> Watched:
        """Run a command with a configuration in a process of its own; `at` as in `run_command`."""
        file = self.folder / "settings" / f"{next(self._numbers):03d}-{command}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(config.model_dump(mode="json", exclude_none=True), indent=1))
        return run_command([command, "--config", str(file)], at)

    def fresh(self, name: str) -> str:
        """A folder that no run has used."""
        return str(self.folder / "runs" / f"{time.time_ns()}-{name}")

    def shards(self, faces: int, image_size: int) -> str:
        """A folder of shards of synthetic faces, made the first time."""
        folder = str(self.folder / "shards" / f"{faces}-{image_size}")
        self.run("shards", self.shards_config(folder, faces, image_size))
        return folder

    def shards_config(
        self, folder: str, faces: int, image_size: int, **sharding: Any
    ) -> ShardsConfig:
        """Synthetic faces to a folder of shards."""
        return ShardsConfig(
            output=folder,
            drawn={"count": faces},
            sharding={"image_size": image_size, **sharding},
            tracking=self.tracking,
        )

    def face_network(self) -> str:
        """A file of random FaceNet weights."""
        return random_face_network(self.folder)

    def train_config(self, shards: str, output: str, **changes: Any) -> TrainConfig:
        """A short training of `steps` steps that logs `LOGGED_ROWS` rates and little else."""
        steps = self.config.steps
        base = {
            "output": output,
            "shards": shards,
            "model": {},
            "loss": {},
            "training": {
                "steps": steps,
                "global_batch_size": 128,
                "precision": self.config.precision,
                "log_every": max(1, steps // LOGGED_ROWS),
                "grid_every": steps,
                "grid_faces": 8,
                "validate_every": steps,
                "validation_images": 8,
                "checkpoint_every": steps,
                "keep_best": False,
            },
            "scaling": {"workers": 1},
            "tracking": self.tracking,
        }
        for key, value in changes.items():
            base[key] = base[key] | value
        return TrainConfig.model_validate(base)
