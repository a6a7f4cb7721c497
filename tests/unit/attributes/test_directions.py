"""Planted truths, brute-force refits, and labels with gaps."""

import numpy as np
import pytest

from facevae.attributes.directions import (
    derive_directions,
    jackknife,
    leakage,
    leave_one_out,
    rescale,
)
from facevae.attributes.folds import FoldedStatistics, fold_of, fold_statistics
from facevae.attributes.vectors import LatentBatch
from tests.unit.attributes.worlds import (
    ATTRIBUTES,
    LATENT,
    correlated_labels,
    statistics,
    world,
)


def orthogonal_labels(repeats=40):
    """All 64 combinations of six labels: not one correlates with another."""
    bits = (np.arange(64)[:, None] >> np.arange(ATTRIBUTES)) & 1
    return np.tile(np.where(bits, 1, -1).astype(np.int8), (repeats, 1))


def cosines(found, truth):
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(truth, axis=1)
    return np.sum(found * truth, axis=1) / lengths


def folded(latents, labels, folds=10, size=700, identities=None) -> FoldedStatistics:
    """Statistics by fold of images that come in batches."""

    def batches():
        for start in range(0, len(latents), size):
            rows = slice(start, start + size)
            ids = [f"{row}.jpg" for row in range(len(latents))[rows]]
            people = None if identities is None else identities[rows]
            yield LatentBatch(ids, ["train"] * len(ids), latents[rows], labels[rows], people)

    return fold_statistics(batches(), LATENT, ATTRIBUTES, folds, bool((labels == 0).any()))


def derived(latents, labels, **options):
    found = folded(latents, labels)
    return derive_directions(found.train, found.validation, min_count=25, **options)


@pytest.mark.parametrize("missing", [0.0, 0.15])
def test_partial_recovers_planted_directions_of_correlated_labels_and_mean_does_not(missing):
    latents, labels, truth = world(images=20_000, missing=missing)
    total, directions = derived(latents, labels)
    assert cosines(directions.partial, truth).mean() > 0.95
    assert cosines(total.mean_difference(), truth).mean() < 0.75


def test_partial_is_mean_where_labels_do_not_correlate():
    labels = orthogonal_labels()
    random = np.random.default_rng(2)
    latents = labels @ random.normal(size=(ATTRIBUTES, LATENT)) + random.normal(
        size=(len(labels), LATENT)
    )
    total, directions = derived(latents, labels)
    np.testing.assert_allclose(directions.partial, total.mean_difference(), rtol=1e-6)
    np.testing.assert_allclose(directions.variance_inflation, 1, rtol=1e-12)


def test_the_moves_of_partial_leak_less_into_the_true_labels():
    """The attributes that a move really changes: the planted ones, found by least squares."""
    latents, labels, truth = world(images=20_000)
    total, directions = derived(latents, labels)

    def others(moves):
        changed = np.linalg.lstsq(truth.T, moves.T)[0].T
        changed /= changed.diagonal()[:, None]
        return np.abs(changed - np.eye(ATTRIBUTES)).sum() / (ATTRIBUTES * (ATTRIBUTES - 1))

    assert others(directions.partial) < 0.2 * others(total.mean_difference())


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_errors_are_those_of_refits_without_a_fold(missing):
    latents, labels, _ = world(images=1500, missing=missing)
    _, directions = derived(latents, labels, ridge=1e-3)
    folds = np.array([fold_of(f"{row}.jpg", 10) for row in range(len(latents))])
    refits = [
        derive_directions([statistics(latents, labels, folds != f)], None, min_count=1, ridge=1e-3)
        for f in range(10)
    ]
    for name, estimates in {
        "mean_errors": [total.mean_difference() for total, _ in refits],
        "partial_errors": [each.partial for _, each in refits],
        "lda_errors": [each.lda for _, each in refits],
    }.items():
        expected = np.sqrt(0.9 * 10 * np.var(estimates, axis=0))
        np.testing.assert_allclose(getattr(directions, name), expected, rtol=1e-8, atol=1e-12)


def test_errors_are_as_large_as_the_scatter_over_many_worlds():
    """Of 40 data sets of one world: the spread of their directions is what one of them says."""
    truth = np.random.default_rng(5).normal(size=(ATTRIBUTES, LATENT))
    found = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        labels = correlated_labels(random, 600, common=0.5)
        latents = labels @ truth + random.normal(size=(600, LATENT))
        found.append(derived(latents, labels, ridge=1e-3)[1])
    for name in ("partial", "lda"):
        spread = np.std([getattr(each, name) for each in found], axis=0)
        said = np.mean([getattr(each, f"{name}_errors") for each in found], axis=0)
        assert np.median(said / spread) == pytest.approx(1, abs=0.15)


def test_each_rest_is_all_without_one_fold():
    latents, labels, _ = world(images=500)
    parts = [statistics(latents, labels, slice(i, i + 100)) for i in range(0, 500, 100)]
    rests, total = leave_one_out(parts)
    assert total.count == 500
    for i, rest in enumerate(rests):
        rows = np.r_[0 : 100 * i, 100 * (i + 1) : 500]
        np.testing.assert_allclose(rest.scatter, statistics(latents, labels, rows).scatter)
        np.testing.assert_array_equal(
            rest.both_positive, statistics(latents, labels, rows).both_positive
        )
    assert leave_one_out(parts[:1])[0] == []


def test_the_jackknife_of_a_mean_is_its_standard_error():
    latents = np.random.default_rng(0).normal(size=(40, LATENT))
    labels = np.ones((40, ATTRIBUTES), np.int8)
    rests, _ = leave_one_out([statistics(latents, labels, slice(i, i + 1)) for i in range(40)])
    found = jackknife(lambda part: part.mean, rests)
    np.testing.assert_allclose(found, latents.std(axis=0, ddof=1) / np.sqrt(40))


def test_every_method_moves_its_score_by_one_gap():
    latents, labels, _ = world()
    total, directions = derived(latents, labels)
    scorers = directions.scorers()
    moves = (directions.partial, total.mean_difference(), rescale(directions.lda, scorers))
    for move in moves:
        np.testing.assert_allclose(np.sum(move * scorers.weights, axis=1), scorers.gap, rtol=1e-9)
    assert leakage(directions.partial, scorers).diagonal() == pytest.approx(1)


def test_levels_of_the_class_means_are_0_and_1():
    latents, labels, _ = world()
    total, directions = derived(latents, labels)
    for means, level in ((total.negative_mean, 0), (total.positive_mean, 1)):
        scores = np.sum(means * directions.lda, axis=1) + directions.lda_bias
        np.testing.assert_allclose(scores / directions.gap + 0.5, level, atol=1e-9)


def test_a_rare_attribute_has_no_direction_and_costs_the_others_nothing():
    latents, labels, _ = world()
    labels[:, 2] = -1
    labels[:5, 2] = 1
    _, directions = derived(latents, labels)
    for name in ("partial", "lda", "partial_errors", "lda_errors", "mean_errors"):
        finite = np.isfinite(getattr(directions, name)).all(axis=1)
        np.testing.assert_array_equal(finite, [True, True, False, True, True, True])
    assert np.isnan(directions.variance_inflation[2])


def test_two_labels_that_are_one_share_a_direction():
    latents, labels, _ = world(common=0.3)
    labels[:, 1] = labels[:, 0]
    _, directions = derived(latents, labels)
    np.testing.assert_allclose(directions.partial[0], directions.partial[1])


@pytest.mark.parametrize("images", [0, 3])
def test_hardly_any_images_give_no_direction_and_no_error(images):
    latents, labels, _ = world(images=images)
    total, directions = derived(latents, labels)
    assert total.count == images
    assert np.isnan(directions.partial).all()


def test_labels_of_data_sets_that_share_none_count_as_uncorrelated():
    latents, labels, _ = world(common=0.0)
    labels[:2000, :3] = 0
    labels[2000:, 3:] = 0
    total, directions = derived(latents, labels)
    assert np.isfinite(directions.partial).all()
    assert (cosines(directions.partial, total.mean_difference()) > 0.99).all()
