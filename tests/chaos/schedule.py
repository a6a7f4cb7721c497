"""What goes wrong, and when: a schedule is a pure function of its seed.

No clock fires a fault. It fires when the pipeline writes the n-th file of a kind, just before that
is stored or just after; the writer waits for it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Command = Literal["shards", "train", "attributes"]
COMMANDS: tuple[Command, ...] = ("shards", "train", "attributes")
Phase = Literal["before", "after"]

STEPS, CHECKPOINT_EVERY, LOG_EVERY = 40, 5, 2
"""of the training; checkpoints fall between two logged means"""
SHARDS, CHECKPOINTS = 12, STEPS // CHECKPOINT_EVERY
"""how many the pipeline writes at least"""

FILES: dict[Command, dict[str, int]] = {
    "shards": {
        "run.json": 2,
        "data/*.parquet": SHARDS,
        "records/*.json": SHARDS,
        "manifest.json": 1,
        "result.json": 1,
    },
    "train": {
        "run.json": 2,
        "checkpoints/*/model.safetensors": CHECKPOINTS,
        "checkpoints/*/training.json": CHECKPOINTS,
        "model/model.safetensors": 1,
        "result.json": 1,
    },
    "attributes": {
        "run.json": 2,
        "latents/*.parquet": SHARDS,
        "statistics/*.npz": SHARDS,
        "attribute_vectors.h5": 1,
        "result.json": 1,
    },
}
"""the files that are counted, and how many of each a command is sure to write"""

PARTS: dict[Command, tuple[str, ...]] = {
    "shards": ("data/*.parquet", "records/*.json"),
    "train": ("checkpoints/*/model.safetensors", "checkpoints/*/training.json"),
    "attributes": ("latents/*.parquet", "statistics/*.npz"),
}
"""the files that come one by one while the work is done"""

KINDS = {
    "writer": "SIGKILL of a process that writes shards",
    "worker": "SIGKILL of a training worker",
    "actor": "SIGKILL of an encoder actor",
    "node": "SIGKILL of a raylet and its family",
    "driver": "SIGKILL of the driver",
    "stop": "SIGTERM of the driver",
    "mlflow": "SIGKILL of the MLflow server",
    "s3-pause": "the S3 server stands still",
    "s3-errors": "the S3 server answers 500 or 503",
    "disk": "the disk of temporary files is full",
}
COMMANDS_OF: dict[str, tuple[Command, ...]] = {
    "writer": ("shards",),
    "worker": ("train",),
    "actor": ("attributes",),
}
"""where a kind can strike; others can everywhere"""
ONLY_AT_WORK = {"writer", "worker", "actor", "node", "disk"}
"""kinds that mean nothing before and after the work"""
AMOUNTS = {
    "node": (0, 1, 3),
    "mlflow": (0, 1, 5),
    "s3-pause": (1, 4, 12),
    "s3-errors": (3, 12, 60),
    "disk": (20, 60, 150),
}
"""for how many more writes or requests a state lasts"""

AT_WORK = 0.6
"""the share of the others that strike at the work; the rest strikes anywhere"""
FAULTS = 3
"""in a schedule"""
ROUND = 4
"""so many schedules in a row, from a multiple of it on, have every kind"""


@dataclass(frozen=True)
class Fault:
    """What goes wrong, when, and until when."""

    kind: str
    command: Command
    file: str
    number: int
    phase: Phase
    amount: int = 0
    """writes (node, mlflow) or requests to S3 (others) after which it is over"""
    choice: int = 0
    """which of several: nodes, processes, 500 or 503"""

    def __str__(self) -> str:
        of = "writes" if self.kind in ("node", "mlflow") else "requests"
        lasts = f", for {self.amount} {of} or so"
        what = KINDS[self.kind] + (lasts if self.kind in AMOUNTS else "")
        return f"{self.command}: {self.phase} {self.file} number {self.number}: {what}"


def schedule(seed: int) -> list[Fault]:
    """The faults of a seed, in the order of the pipeline."""
    chance = random.Random(f"faults {seed}")
    faults = [_fault(kind, chance) for kind in kinds(seed)]
    return sorted(faults, key=lambda fault: (COMMANDS.index(fault.command), fault.number))


def kinds(seed: int) -> list[str]:
    """The kinds of a seed's faults; they go round, so that a few schedules have all."""
    round_, place = divmod(seed, ROUND)
    deck = [*KINDS]
    chance = random.Random(f"kinds {round_}")
    deck += chance.sample(deck, ROUND * FAULTS - len(deck))
    chance.shuffle(deck)
    return deck[place * FAULTS : (place + 1) * FAULTS]


def _fault(kind: str, chance: random.Random) -> Fault:
    command = chance.choice(COMMANDS_OF.get(kind, COMMANDS))
    at_work = kind in ONLY_AT_WORK or chance.random() < AT_WORK
    file = chance.choice(PARTS[command] if at_work else [*FILES[command]])
    return Fault(
        kind,
        command,
        file,
        chance.randint(1, FILES[command][file]),
        chance.choice(("before", "after")),
        chance.choice(AMOUNTS.get(kind, (0,))),
        chance.randrange(100),
    )


def struck(faults: Sequence[Fault]) -> tuple[Command, ...]:
    """The commands from the first to the last that faults strike."""
    places = [COMMANDS.index(fault.command) for fault in faults]
    return COMMANDS[min(places) : max(places) + 1]
