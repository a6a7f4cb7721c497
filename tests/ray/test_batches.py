"""The epoch plan executed by Ray Data: the same images in the same order on any number of ranks."""

import numpy as np
import pytest
import ray
import torch

from facevae.data.batches import training_batches
from facevae.data.order import RankRows, epoch_plan, spread_images
from facevae.data.shard_files import read_manifest

BATCH = 24


def rows_of(shards, rank: int, ranks: int, first_batch: int, batches: int) -> np.ndarray:
    """The image rows of one rank, [batches, its share of BATCH]."""
    plan = epoch_plan(read_manifest(str(shards)), "train", seed=5)
    share = RankRows(rank, ranks, BATCH, first_batch * BATCH, (first_batch + batches) * BATCH)
    stream = training_batches(str(shards), plan, share, torch.device("cpu"))
    return np.stack([batch.rows.numpy() for batch in stream])


def test_ranks_share_the_batches_of_one_and_a_cursor_gives_the_rest(shards):
    images = read_manifest(str(shards)).rows("train")
    batches = 2 * images // BATCH + 1  # over two epochs, which do not end with a batch
    whole = rows_of(shards, 0, 1, 0, batches)
    for ranks in (2, 5):  # 24 does not divide by 5
        parts = [rows_of(shards, rank, ranks, 0, batches) for rank in range(ranks)]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    np.testing.assert_array_equal(rows_of(shards, 0, 1, 7, batches - 7), whole[7:])
    for epoch in (0, 1):
        rows = whole.reshape(-1)[epoch * images : (epoch + 1) * images]
        np.testing.assert_array_equal(np.sort(rows), np.arange(images))


@pytest.mark.usefixtures("ray_cluster")
def test_pixels_are_those_of_the_rows(shards):
    manifest = read_manifest(str(shards))
    plan = epoch_plan(manifest, "train", seed=5)
    batch = next(
        training_batches(str(shards), plan, RankRows(0, 1, BATCH, 0, BATCH), torch.device("cpu"))
    )
    stored = spread_images(str(shards), manifest, "train", manifest.rows("train"))
    np.testing.assert_array_equal(batch.pixels.numpy(), stored[batch.rows.numpy()])


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda", True)])
def test_batches_of_a_gpu_are_copied_from_pinned_memory(shards, monkeypatch, device, pinned):
    asked = {}

    def iterate(_: ray.data.Dataset, **options):
        asked.update(options)
        return (batch for batch in ())

    monkeypatch.setattr(ray.data.Dataset, "iter_torch_batches", iterate)
    plan, share = epoch_plan(read_manifest(str(shards)), "train", seed=5), RankRows(0, 1, 8, 0, 8)
    assert not [*training_batches(str(shards), plan, share, torch.device(device))]
    assert (asked["pin_memory"], asked["device"]) == (pinned, torch.device(device))
