"""What 100 million images ask for: totals that do not grow, and no list of rows anywhere.

Five million rows of drawn latents, of which no more than a shard is ever there.
"""

import subprocess
import sys

import numpy as np

ROWS, ROWS_PER_SHARD = 5_000_000, 50_000
PROGRAM = """
import resource, sys
import numpy as np
from facevae.attributes.statistics import AttributeStatistics, ShardStatistics, reduce_shards
from facevae.attributes.hdf5 import write_hdf5
from facevae.attributes.vectors import LatentBatch, mean_difference

rows, size, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
LATENT, ATTRIBUTES = 4, 2

def shard(number):
    random = np.random.default_rng(number)
    labels = random.choice(np.array([-1, 1], np.int8), (size, ATTRIBUTES))
    return random.normal(size=(size, LATENT), scale=0.5) + labels[:, :1], labels

def statistics():
    for number in range(rows // size):
        latents, labels = shard(number)
        part = AttributeStatistics.of_batch(latents, np.ones_like(latents), labels)
        yield ShardStatistics(number, "", {"train": part})

def batches():
    for number in range(rows // size):
        latents, labels = shard(number)
        ids = [f"{number}/{row}.jpg" for row in range(size)]
        yield LatentBatch(ids, ["train"] * size, latents, labels)

total = reduce_shards(statistics())["train"]
vectors = mean_difference(
    total, ("a", "b"), 25, model_digest="m", shards_digest="s", labels_digest="l"
)
write_hdf5(path, vectors, batches(), rows)
print(total.count, *vectors.vectors[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _run(rows: int, folder) -> tuple[int, np.ndarray, int]:
    """Images counted, the first vector, and the process's most memory in KiB."""
    words = [sys.executable, "-c", PROGRAM, str(rows), str(ROWS_PER_SHARD), str(folder / "v.h5")]
    count, *vector, memory = subprocess.run(
        words, check=True, capture_output=True, text=True
    ).stdout.split()
    return int(count), np.array(vector, float), int(memory)


def test_memory_stays_while_images_grow(tmp_path):
    _, _, few = _run(ROWS // 20, tmp_path)
    count, vector, many = _run(ROWS, tmp_path)
    assert count == ROWS
    np.testing.assert_allclose(vector, 2.0, atol=0.003)  # as planted
    assert many < few + 30_000, f"{few / 1e3:.0f} MB grew to {many / 1e3:.0f} MB"
