"""The checkpoints of a run: written in the background, verified before use, old ones removed.

The folder itself is the record: a checkpoint is whole if its files are those that its digests tell,
so nothing else can be lost or disagree with it. One rank writes; all may read.
"""

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from facevae.config import TrainingConfig
from facevae.errors import UnreachableError, UserError
from facevae.models.checkpoint import (
    CARD,
    FILES,
    TRAINING,
    DamagedError,
    TrainingState,
    load_training,
)
from facevae.runs import storage
from facevae.runs.progress import log

FOLDER = "checkpoints"
RETRY_SECONDS = (2.0, 10.0, 30.0)
"""waits before the checkpoint that a run ends with is tried again"""
_NAME = re.compile(r"step_(\d{7,})")

Write = Callable[[Path], None]


class _Job(NamedTuple):
    """A checkpoint to write: its step, the metrics up to it, and what fills its folder."""

    step: int
    history: list[dict[str, float | int]]
    write: Write


class CheckpointManager:
    """The checkpoints below a run's output folder."""

    def __init__(
        self, output: str, config: TrainingConfig, log_line: Callable[[str], None] = log
    ) -> None:
        """Takes the run's output folder, how many to keep, and where warnings go."""
        self._folder = storage.join(output, FOLDER)
        self._config, self._log = config, log_line
        self._broken: set[int] = set()
        self._not_removed: set[int] = set()
        self._failures, self._stop_reason = 0, ""
        self._writer = ThreadPoolExecutor(1, "checkpoints")
        self._newest: _Job | None = None
        self._written: Future[bool] | None = None

    def uri(self, step: int) -> str:
        """The URI of the checkpoint of a step."""
        return storage.join(self._folder, f"step_{step:07d}")

    def steps(self) -> list[int]:
        """The steps that checkpoints are there of, whole or not, in order."""
        found = map(_NAME.fullmatch, storage.names(self._folder))
        return sorted(int(match[1]) for match in found if match)

    # --- reading ---

    def newest(self) -> TrainingState | None:
        """The state of the newest whole checkpoint; none: there is none to go on from yet.

        Those that are not whole are told of, with the one that is taken instead.

        Raises:
            UserError: there are some, and none is whole; or the store cannot be reached.
        """
        problems: dict[int, str] = {}
        state = None
        for step in reversed(self.steps()):
            try:
                state = self.load(step)
                break
            except DamagedError as error:
                problems[step] = str(error)
        self._broken = {*problems}
        if state is None and not all(self._is_unfinished(step) for step in problems):
            step, reason = next(iter(problems.items()))
            raise UserError(
                f"none of the {len(problems)} checkpoints in {self._folder} is whole "
                f"(step {step}: {reason}): put back a copy of one, or remove that folder to train "
                "from the beginning"
            )
        instead = "from the beginning" if state is None else f"from {self.uri(state.step)}"
        for step, reason in problems.items():
            self._log(
                f"warning: checkpoint {self.uri(step)} is not whole ({reason}); going on "
                f"{instead}, the one before"
                if state
                else f"warning: checkpoint {self.uri(step)} was not written to its end; "
                f"starting {instead}"
            )
        return state

    def load(self, step: int) -> TrainingState:
        """The state of the checkpoint of a step, or raise as `opened`."""
        with self.opened(step) as (_, state):
            return state

    @contextlib.contextmanager
    def opened(self, step: int) -> Iterator[tuple[Path, TrainingState]]:
        """A local copy of the checkpoint of a step, and its state.

        Raises:
            DamagedError: it is not whole.
        """
        if self._is_unfinished(step):
            raise DamagedError(f"it has no {TRAINING}: it was not written to its end")
        with storage.local_copy(self.uri(step)) as folder:
            try:
                state = load_training(folder)
            except DamagedError as error:
                raise DamagedError(str(error).replace(f"{folder}/", "")) from error
            except OSError as error:  # the disk cannot read it
                raise DamagedError(f"cannot be read: {error.strerror or error}") from error
            if state.step != step:
                raise DamagedError(f"it holds step {state.step}")
            yield folder, state

    def _is_unfinished(self, step: int) -> bool:
        return not storage.exists(storage.join(self.uri(step), TRAINING))

    def shards_digest(self) -> str | None:
        """The digest of the shards that the newest checkpoint is of; none: no checkpoint tells."""
        for step in reversed(self.steps()):
            try:
                return str(storage.read_json(storage.join(self.uri(step), CARD))["shards_digest"])
            except UnreachableError:
                raise
            except (UserError, LookupError, TypeError):  # an older one is of the same shards
                continue
        return None

    def best(self, history: Sequence[dict[str, float | int]]) -> int | None:
        """The step of the checkpoint with the lowest validation loss; none: none has one."""
        scores = {
            int(row["step"]): row["validation/loss"]
            for row in history
            if math.isfinite(row.get("validation/loss", math.nan))
        }
        steps = [step for step in self.steps() if step in scores and step not in self._broken]
        return min(steps, key=lambda step: (scores[step], step), default=None)

    # --- writing ---

    def remove_partial_writes(self) -> None:
        """Remove what writers that were killed have left half done."""
        storage.remove_partial_writes(self._folder, _NAME.pattern, FILES)

    def save(self, step: int, history: Sequence[dict[str, float | int]], write: Write) -> None:
        """Write the checkpoint of a step in the background, after the one before.

        Args:
            step: the step.
            history: the metrics up to it, which tell the best.
            write: fills an empty folder; called later, in another thread.

        Raises:
            UserError: as `check`.
        """
        if self._written is not None:
            self._written.result()
        self.check()
        self._newest = _Job(step, [*history], write)
        self._written = self._writer.submit(self._keep, self._newest)

    def check(self) -> None:
        """Raise if too many checkpoints in a row have failed.

        Raises:
            UserError: more than `failed_checkpoints_allowed`.
        """
        if self._failures > self._config.failed_checkpoints_allowed:
            raise UserError(
                f"training stopped: {self._failures} checkpoints in a row could not be kept "
                f"({self._stop_reason}); mend that and give the same command again: it goes on "
                "from the last that could"
            )

    @property
    def is_writing(self) -> bool:
        """Whether the newest is not there yet."""
        return self._written is not None and not self._written.done()

    def close(self) -> None:
        """Wait for what is being written, whatever becomes of it; none is kept any more."""
        self._writer.shutdown()

    def finish(self) -> None:
        """Wait until the newest is there; it is tried again a few times.

        Raises:
            UserError: it cannot be kept.
        """
        if self._written is None or self._newest is None or self._written.result():
            return
        for seconds in RETRY_SECONDS:
            time.sleep(seconds)
            if self._writer.submit(self._keep, self._newest).result():
                return
        raise UserError(
            f"the checkpoint of step {self._newest.step} could not be kept ({self._stop_reason}); "
            "mend that and give the same command again: it goes on from the last that could"
        )

    def _keep(self, job: _Job) -> bool:
        """Write a checkpoint and remove old ones; whether it is there."""
        try:
            with storage.atomic_folder(
                self.uri(job.step), last=TRAINING, scratch=Path.cwd()
            ) as folder:
                job.write(folder)
        except (UserError, OSError) as error:
            self._failures += 1
            self._stop_reason = str(error)
            self._broken.add(job.step)
            self._log(
                f"warning: the checkpoint of step {job.step} could not be kept ({error}); "
                f"{self._failures} in a row, more than "
                f"{self._config.failed_checkpoints_allowed} stop the training"
            )
            return False
        self._failures = 0
        self._broken.discard(job.step)
        try:
            self._prune(job)
        except (UserError, OSError) as error:
            self._log(f"warning: old checkpoints could not be removed ({error})")
        return True

    def _prune(self, job: _Job) -> None:
        # Later ones are of a future that is trained anew, and will be replaced.
        steps = [step for step in self.steps() if step <= job.step]
        whole = [step for step in steps if step not in self._broken]
        kept = {*whole[-self._config.checkpoints_kept :]}
        if self._config.keep_best:
            kept.add(self.best(job.history) or job.step)
        for step in steps:
            if step in kept or step in self._not_removed:
                continue
            if storage.remove_own_folder(self.uri(step), FILES):
                self._broken.discard(step)
            else:
                self._not_removed.add(step)
                self._log(
                    f"warning: the old checkpoint {self.uri(step)} is not removed, since it "
                    "holds files of another program; remove it when you need it no more"
                )
