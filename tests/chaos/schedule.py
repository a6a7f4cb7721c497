"""What goes wrong, and when: a schedule is a pure function of its seed.

No clock fires a fault. It fires when the pipeline writes the n-th file of a kind, just before that
is stored or just after; the writer waits for it.
"""

import random
from dataclasses import dataclass
from typing import Literal

Verb = Literal["shards", "train", "attributes"]
VERBS: tuple[Verb, ...] = ("shards", "train", "attributes")
Phase = Literal["before", "after"]

SHARDS = {"train": 16, "val": 2, "test": 2}
"""how many shards the pipeline makes at least"""
CHECKPOINTS = 8

FILES: dict[Verb, dict[str, int]] = {
    "shards": {
        "run.json": 1,
        "data/*.parquet": sum(SHARDS.values()),
        "records/*.json": sum(SHARDS.values()),
        "manifest.json": 1,
        "result.json": 1,
    },
    "train": {
        "run.json": 1,
        "checkpoints/*/model.safetensors": CHECKPOINTS,
        "checkpoints/*/training.json": CHECKPOINTS,
        "model/model.safetensors": 1,
        "result.json": 1,
    },
    "attributes": {
        "run.json": 1,
        "latents/*.parquet": sum(SHARDS.values()),
        "statistics/*.npz": sum(SHARDS.values()),
        "attribute_vectors.h5": 1,
        "result.json": 1,
    },
}
"""the files that are counted, and how many of each a verb is sure to write"""

EVERYWHERE = tuple((verb, file) for verb in VERBS for file in FILES[verb])
SHARD_FILES = (("shards", "data/*.parquet"), ("shards", "records/*.json"))
CHECKPOINT_FILES = (
    ("train", "checkpoints/*/model.safetensors"),
    ("train", "checkpoints/*/training.json"),
)
ENCODED_FILES = (("attributes", "latents/*.parquet"), ("attributes", "statistics/*.npz"))

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
PLACES = {
    "writer": SHARD_FILES,
    "worker": CHECKPOINT_FILES,
    "actor": ENCODED_FILES,
    "disk": (*SHARD_FILES, *CHECKPOINT_FILES, *ENCODED_FILES),
}
"""where a kind may strike; others may everywhere"""
AMOUNTS = {
    "node": (0, 1, 3),
    "mlflow": (0, 1, 5),
    "s3-pause": (1, 4, 12),
    "s3-errors": (3, 12, 40),
    "disk": (1, 2, 6),
}
"""for how many more writes or requests a state lasts"""

FAULTS = 3
"""in a schedule"""
ROUND = 4
"""so many schedules in a row, from a multiple of it on, have every kind"""


@dataclass(frozen=True)
class Fault:
    """What goes wrong, when, and until when."""

    kind: str
    verb: Verb
    file: str
    number: int
    phase: Phase
    amount: int = 0
    """writes (node, mlflow, disk) or requests (S3) after which it is over"""
    choice: int = 0
    """which of several: nodes, processes, 500 or 503"""

    def __str__(self) -> str:
        lasts = f", for {self.amount} {'requests' if 's3' in self.kind else 'writes'} or so"
        what = KINDS[self.kind] + (lasts if self.kind in AMOUNTS else "")
        return f"{self.verb}: {self.phase} {self.file} number {self.number}: {what}"


def schedule(seed: int) -> list[Fault]:
    """The faults of a seed, in the order of the pipeline."""
    chance = random.Random(f"faults {seed}")
    faults = [_fault(kind, chance) for kind in kinds(seed)]
    return sorted(faults, key=lambda fault: (VERBS.index(fault.verb), fault.number))


def kinds(seed: int) -> list[str]:
    """The kinds of a seed's faults; they go round, so that a few schedules have all."""
    round_, place = divmod(seed, ROUND)
    deck = [*KINDS]
    chance = random.Random(f"kinds {round_}")
    deck += chance.sample(deck, ROUND * FAULTS - len(deck))
    chance.shuffle(deck)
    return deck[place * FAULTS : (place + 1) * FAULTS]


def _fault(kind: str, chance: random.Random) -> Fault:
    verb, file = chance.choice(PLACES.get(kind, EVERYWHERE))
    return Fault(
        kind,
        verb,
        file,
        chance.randint(1, FILES[verb][file]),
        chance.choice(("before", "after")),
        chance.choice(AMOUNTS.get(kind, (0,))),
        chance.randrange(100),
    )
