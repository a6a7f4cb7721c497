"""Which images are looked at: spread evenly, the same ones each time, halves of equal size."""

import numpy as np
import pytest

from facevae.config import EvaluationConfig
from facevae.data.shard_files import Manifest, Shard
from facevae.evaluation.sampling import choose_sample, spread


def manifest(**rows) -> Manifest:
    shards = tuple(
        Shard(f"{split}-{number:05d}", split, count, 1, "0")
        for split, counts in rows.items()
        for number, count in enumerate(counts)
    )
    return Manifest(("a",), 64, shards, {}, {}, {}, False)


def test_numbers_are_spread_evenly():
    assert spread(10, 2).tolist() == [2, 7]
    assert spread(3, 9).tolist() == [0, 1, 2]
    assert spread(0, 5).tolist() == []
    for total, count in ((1000, 37), (64, 64), (65, 64)):
        found = spread(total, count)
        assert len(set(found.tolist())) == count
        assert set(np.diff(found)) <= {total // count, total // count + 1}


@pytest.mark.parametrize(("decoded", "edited"), [(64, 16), (10_000, 5), (3, 64)])
def test_held_out_rows_are_decoded_and_halved(decoded, edited):
    shards = manifest(train=[100, 100], val=[50, 7], test=[50, 50])
    sample = choose_sample(shards, EvaluationConfig(decoded=decoded, edited=edited), True)
    assert [shard.split for shard in sample.held_out] == ["val", "val", "test", "test"]
    rows = list(sample.rows.values())
    assert [each.first for each in rows] == [0, 50, 57, 107]
    total = min(decoded, 157)
    assert sum(len(each.rows) for each in rows) == total
    halves = np.concatenate([each.is_reference for each in rows])
    assert halves.sum() == (total + 1) // 2
    assert sum(int(each.is_edited.sum()) for each in rows) == min(edited, total)
    for shard, each in zip(sample.held_out, rows, strict=True):
        assert ((each.rows >= 0) & (each.rows < shard.rows)).all()


def test_a_judge_learns_from_as_few_whole_training_shards_as_suffice():
    shards = manifest(train=[100] * 10, val=[20])
    chosen = choose_sample(shards, EvaluationConfig(judge_images=250), True).training
    assert [shard.name for shard in chosen] == ["train-00001", "train-00005", "train-00008"]
    assert len(choose_sample(shards, EvaluationConfig(judge_images=9_999), True).training) == 10
    assert choose_sample(shards, EvaluationConfig(), False).training == ()
