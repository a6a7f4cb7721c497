"""Truths (fsum, two-pass), laws (any split, any order) and faults of the mergeable statistics."""

import io
import math
from functools import reduce

import numpy as np
import pytest

from facevae.attributes.statistics import (
    AttributeStatistics,
    ShardStatistics,
    merge,
    reduce_shards,
    remove,
)
from facevae.errors import UserError

IMAGES, LATENT, ATTRIBUTES = 500, 7, 5


def _data(seed=0, offset=0.0, images=IMAGES):
    """Latents, posterior variances and labels with gaps; some attributes are rare or one-class."""
    random = np.random.default_rng(seed)
    labels = random.choice([-1, 0, 1], (images, ATTRIBUTES), p=[0.5, 0.2, 0.3]).astype(np.int8)
    labels[:, 3] = -1
    labels[1:, 4] = 0
    latents = offset + random.normal(size=(images, LATENT)) + 0.5 * labels[:, :1]
    return latents, random.uniform(0.1, 1, (images, LATENT)), labels


def _of(latents, variances, labels, rows=slice(None)):
    return AttributeStatistics.of_batch(latents[rows], variances[rows], labels[rows], True)


def _two_pass(latents, variances, labels):
    """The definitions, one class after the other, with exactly rounded means."""

    def mean(rows):
        return np.array([math.fsum(column) / len(rows) for column in rows.T])

    def moments(rows):
        if not len(rows):
            return np.zeros(LATENT), np.zeros((LATENT, LATENT))
        centred = rows - mean(rows)
        return mean(rows), centred.T @ centred

    truth = {"count": len(latents), "rejected": 0}
    truth["mean"], truth["scatter"] = moments(latents)
    truth["posterior_variance_sum"] = np.array([math.fsum(column) for column in variances.T])
    signs = {"positive": 1, "negative": -1}
    for name, sign in signs.items():
        classes = [moments(latents[labels[:, k] == sign]) for k in range(ATTRIBUTES)]
        truth[f"{name}_mean"] = np.stack([m for m, _ in classes])
        truth[f"{name}_scatter"] = np.stack([s for _, s in classes])
        truth[f"{name}_square"] = np.stack([np.diag(s) for _, s in classes])
    pairs = {"both_positive": (1, 1), "positive_negative": (1, -1), "both_negative": (-1, -1)}
    for name, (a, b) in pairs.items():
        truth[name] = np.array(
            [
                [sum((labels[:, i] == a) & (labels[:, j] == b)) for j in range(ATTRIBUTES)]
                for i in range(ATTRIBUTES)
            ]
        )
    return truth


def _assert_close(found, expected, rtol=1e-12):
    """Counts equal; moments within rtol of the largest value of their array."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        value = np.asarray(value)
        if value.dtype.kind == "i":
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        else:
            scale = np.abs(value).max() or 1.0
            np.testing.assert_allclose(found[name], value, 0, rtol * scale, err_msg=name)


def _assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize("cuts", [[], [1], [250], [0, 3, 3, 200, 499], list(range(0, 500, 16))])
def test_any_split_equals_two_pass(cuts):
    data = _data()
    rows = np.split(np.arange(IMAGES), cuts)
    merged = reduce(merge, [_of(*data, part) for part in rows])
    _assert_close(merged.to_arrays(), _two_pass(*data))


def test_float32_hostile_data_is_exact():
    """|mean| / deviation = 1e4: raw float32 sums would leave nothing of the scatter."""
    latents, variances, labels = _data(offset=1e4)
    latents = latents.astype(np.float32)
    parts = [_of(latents, variances, labels, slice(i, i + 64)) for i in range(0, IMAGES, 64)]
    merged, truth = reduce(merge, parts), _two_pass(latents.astype(np.float64), variances, labels)
    _assert_close(merged.to_arrays(), truth)
    difference = truth["positive_mean"][0] - truth["negative_mean"][0]
    np.testing.assert_allclose(merged.mean_difference()[0], difference, atol=1e-10)


def test_empty_is_the_identity_to_the_bit():
    part = _of(*_data())
    empty = AttributeStatistics.empty(LATENT, ATTRIBUTES, class_scatter=True)
    for merged in (merge(empty, part), merge(part, empty), remove(part, empty)):
        _assert_same_bits(merged.to_arrays(), part.to_arrays())
    _assert_same_bits(remove(part, part).to_arrays(), empty.to_arrays())
    _assert_same_bits(merge(empty, empty).to_arrays(), empty.to_arrays())


def test_remove_undoes_merge():
    a, b = _of(*_data(1)), _of(*_data(2, images=300))
    _assert_close(remove(merge(a, b), b).to_arrays(), a.to_arrays())
    with pytest.raises(AssertionError, match="more images"):
        remove(b, a)


def test_rows_that_are_not_finite_are_rejected_and_counted():
    latents, variances, labels = _data()
    broken = latents.copy(), variances.copy(), labels
    broken[0][3, 1], broken[0][4, 0], broken[1][9, 2] = np.nan, np.inf, np.inf
    kept = np.delete(np.arange(IMAGES), [3, 4, 9])
    found = _of(*broken)
    assert (found.count, found.rejected) == (IMAGES - 3, 3)
    clean = _of(latents, variances, labels, kept).to_arrays()
    _assert_same_bits(found.to_arrays() | {"rejected": np.asarray(0)}, clean)
    assert merge(found, found).rejected == 6


def test_labels_of_one_class_or_none_have_no_difference():
    statistics = _of(*_data())
    assert (statistics.positive_count[3], statistics.negative_count[3]) == (0, IMAGES)
    assert statistics.positive_count[4] + statistics.negative_count[4] == 1
    nan_rows = np.isnan(statistics.mean_difference()).all(axis=1)
    np.testing.assert_array_equal(nan_rows, [False, False, False, True, True])
    np.testing.assert_array_equal(np.isnan(statistics.standard_errors()).all(axis=1), nan_rows)


def test_labels_outside_the_encoding_are_refused():
    latents, variances, labels = _data()
    with pytest.raises(AssertionError, match="labels must be"):
        _of(latents, variances, labels * np.int8(2))


def test_standard_errors_are_those_of_welch():
    latents, variances, labels = _data()
    errors = AttributeStatistics.of_batch(latents, variances, labels).standard_errors()
    positive, negative = latents[labels[:, 0] == 1], latents[labels[:, 0] == -1]
    expected = np.sqrt(
        positive.var(axis=0, ddof=1) / len(positive) + negative.var(axis=0, ddof=1) / len(negative)
    )
    np.testing.assert_allclose(errors[0], expected, rtol=1e-12)


def test_standard_errors_cover_the_truth():
    """Over 400 draws of a world of known difference, its error is 1 standard error."""
    random = np.random.default_rng(5)
    labels = np.repeat(np.array([[1], [-1]], np.int8), [30, 70], axis=0)
    scores = []
    for _ in range(400):
        latents = random.normal(size=(100, 4)) * np.where(labels == 1, 2.0, 0.5) + labels
        statistics = AttributeStatistics.of_batch(latents, np.ones_like(latents), labels)
        scores.append((statistics.mean_difference() - 2) / statistics.standard_errors())
    assert np.std(scores) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("class_scatter", [False, True])
def test_arrays_round_trip_to_the_bit(class_scatter):
    arrays = AttributeStatistics.of_batch(*_data(), class_scatter).to_arrays()
    assert ("positive_scatter" in arrays) == class_scatter
    file = io.BytesIO()
    np.savez(file, **arrays)
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        again = AttributeStatistics.from_arrays(loaded)
    _assert_same_bits(again.to_arrays(), arrays)
    assert merge(again, again).count == 2 * IMAGES


def test_arrays_of_another_version_are_refused():
    arrays = _of(*_data()).to_arrays()
    del arrays["positive_square"]
    with pytest.raises(UserError, match="positive_square"):
        AttributeStatistics.from_arrays(arrays)


def _shards(number=6):
    shards = []
    for shard in range(number):
        parts = {split: _of(*_data(10 * shard + i)) for i, split in enumerate(["val", "train"])}
        shards.append(ShardStatistics(shard, f"digest-{shard}", parts))
    return shards


def test_shards_are_merged_one_after_the_other_in_the_order_given():
    shards = _shards()
    found = reduce_shards(iter(shards))
    assert list(found) == ["train", "val"]
    expected = reduce(merge, [shard.by_split["train"] for shard in shards])
    _assert_same_bits(found["train"].to_arrays(), expected.to_arrays())
    other = reduce_shards(reversed(shards))  # why the order is fixed
    assert other["train"].mean.tobytes() != expected.mean.tobytes()


def test_a_shard_without_a_split_is_fine():
    train_only = ShardStatistics("b", "", {"train": _of(*_data(2))})
    both = ShardStatistics("a", "", {"train": _of(*_data(0)), "test": _of(*_data(1))})
    totals = reduce_shards([train_only, both])
    assert {split: total.count for split, total in totals.items()} == {
        "train": 2 * IMAGES,
        "test": IMAGES,
    }


def test_a_shard_that_comes_twice_is_refused():
    shards = _shards(3)
    with pytest.raises(UserError, match="shard 1 again"):
        reduce_shards([*shards, shards[1]])
