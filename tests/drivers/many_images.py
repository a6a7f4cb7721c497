"""Attribute vectors of many drawn latents: `many_images.py ROWS ROWS_PER_SHARD FILE`.

Prints how many rows were counted, the first vector, and the most memory of the process in KiB.
"""

import resource
import sys

import numpy as np

from facevae.attributes.hdf5 import write_hdf5
from facevae.attributes.statistics import AttributeStatistics, ShardStatistics, reduce_shards
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
