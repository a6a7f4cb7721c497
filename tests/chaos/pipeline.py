"""The pipeline as a user runs it: three commands, given again when something ended one of them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.chaos.faults import Injector
from tests.chaos.schedule import CHECKPOINT_EVERY, COMMANDS, LOG_EVERY, STEPS, Command, Fault

REPOSITORY = Path(__file__).parents[2]
QUIET = "quiet"
"""the folder of the run that nothing strikes"""
ATTEMPTS = 8
"""how often a command is given"""
ATTEMPT_SECONDS = 400
SETTINGS: dict[Command, dict[str, object]] = {
    "shards": {
        "drawn.count": 300, "drawn.seed": 3, "sharding.image_size": 64,
        "sharding.images_per_shard": 25, "sharding.attempts": 50,
    },
    "train": {
        "model.latent_size": 8, "loss.reconstruction": "pixel", "loss.beta": 1e-4,
        "training.steps": STEPS, "training.global_batch_size": 12, "training.log_every": LOG_EVERY,
        "training.checkpoint_every": CHECKPOINT_EVERY, "training.validate_every": 10,
        "training.validation_images": 32, "training.grid_every": 20, "training.grid_faces": 4,
        "training.ema_decay": 0.9, "scaling.workers": 2,
    },
    "attributes": {"encoding.batch_size": 64, "encoding.min_count": 5, "encoding.attempts": 50},
}  # fmt: skip


class BrokenError(Exception):
    """The law was broken: in one line."""


class Attempt(NamedTuple):
    """How a command ended."""

    command: Command
    code: int
    seconds: float
    last_line: str


class Pipeline:
    """Runs the commands below a folder of the bucket, and logs below one of this machine."""

    def __init__(
        self,
        environment: dict[str, str],
        injector: Injector,
        logs: Path,
        say: Callable[[str], None],
    ) -> None:
        """Takes the drivers' environment."""
        self._environment, self._injector, self._logs = environment, injector, logs
        self._say = say

    def run(
        self, root: str, faults: Sequence[Fault], commands: Sequence[Command] = COMMANDS
    ) -> list[Attempt]:
        """Run commands to their ends; what others would have made is taken from the quiet run.

        Raises:
            BrokenError: one ended badly without a reason, too often, or not at all.
        """
        self._injector.begin(root, faults)
        attempts: list[Attempt] = []
        for command in commands:
            for _ in range(ATTEMPTS):
                attempts.append(self._attempt(root, command, commands, len(attempts) + 1))
                if attempts[-1].code == 0:
                    break
                if not any(each.attempt == len(attempts) for each in self._injector.fired):
                    raise BrokenError(
                        f"{command} ended with {attempts[-1].code} for no fault of ours"
                    )
            else:
                raise BrokenError(f"{command} did not succeed in {ATTEMPTS} attempts")
        return attempts

    def _attempt(
        self, root: str, command: Command, commands: Sequence[Command], number: int
    ) -> Attempt:
        log = self._logs / f"{root}-{number}-{command}.log"
        started = time.monotonic()
        with log.open("wb") as file:
            driver = subprocess.Popen(
                _words(root, command, commands),
                env=self._environment,
                cwd=self._logs,
                stdout=file,
                stderr=file,
            )
            self._injector.attempt(driver, number)
            try:
                code = driver.wait(ATTEMPT_SECONDS)
            except subprocess.TimeoutExpired:
                raise BrokenError(f"{command} does not end; its log is {log}") from None
            finally:
                driver.kill()
                driver.wait()
                self._injector.heal()
        seconds = time.monotonic() - started
        lines = log.read_text(errors="replace").strip().splitlines()
        last = lines[-1].strip() if lines else ""
        self._say(
            f"  {command}: {seconds:.0f} s" + (f", ended with {code}: {last}" if code else "")
        )
        return Attempt(command, code, seconds, last)


def _words(root: str, command: Command, commands: Sequence[Command]) -> list[str]:
    """The command of a command."""

    def place(of: Command) -> str:
        return f"s3://facevae/{root if of in commands else QUIET}/{of}"

    settings = {
        "output": place(command),
        **({"shards": place("shards")} if command != "shards" else {}),
        **({"model": place("train")} if command == "attributes" else {}),
        **SETTINGS[command],
        "tracking.experiment": root,
        "tracking.system_metrics": "false",
        "tracking.patience_seconds": 120,
    }
    program = [str(Path(sys.executable).with_name("facevae")), command]
    return program + [str(word) for key, value in settings.items() for word in (f"--{key}", value)]


def driver_environment(cluster: dict[str, str], gcs: str) -> dict[str, str]:
    """What a driver has: this program's environment, with this cluster in place of others."""
    others = ("RAY_", "AWS_", "MLFLOW_")
    mine = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return mine | cluster | {"RAY_ADDRESS": gcs}
