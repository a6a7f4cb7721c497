"""A process that writes a file of every kind that holds faces: `kinds_of_files.py FOLDER`."""

import sys
from pathlib import Path

import numpy as np

from facevae.attributes.hdf5 import write_hdf5
from facevae.attributes.vectors import AttributeVectors, LatentBatch
from facevae.data.shard_files import Quarantined, ShardRows, write_quarantine, write_shard
from facevae.report.grids import save_png
from facevae.runs import storage
from facevae.runs.lock import run_lock

folder = Path(sys.argv[1])
vectors = AttributeVectors(
    names=("Smiling",),
    vectors=np.zeros((1, 2), np.float32),
    positive_count=np.array([1]),
    negative_count=np.array([1]),
    standard_errors=np.zeros((1, 2), np.float32),
    valid=np.array([True]),
)
latents = LatentBatch(["a.jpg"], ["train"], np.zeros((1, 2)), np.ones((1, 1), np.int8))
rows = ShardRows(["a.jpg"], [b"face"], np.ones((1, 1), np.int8))

write_shard(str(folder / "shards"), "train-00000", "train", rows, 64)
write_quarantine(str(folder / "shards"), [Quarantined("b.jpg", "truncated")])
write_hdf5(folder / "vectors.h5", vectors, [latents], 1)
save_png(np.zeros((16, 16, 3), np.uint8), str(folder / "grids" / "edit.png"))
storage.write_json(str(folder / "result.json"), {})
storage.make_folder(str(folder / "made" / "deep"))
for _ in range(2):  # a new folder, and one that is there
    with storage.atomic_folder(str(folder / "model"), last="model.json") as model:
        (model / "inner").mkdir()
        for name in ("model.json", "inner/weights"):
            (model / name).touch(mode=0o644)
with run_lock(str(folder / "made"), "facevae test"):
    pass
