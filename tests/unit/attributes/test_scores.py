"""AUC against a known value, scikit-learn, and labels with gaps."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from facevae.attributes.directions import derive_directions
from facevae.attributes.scores import HeldOutScores, auc_mean
from facevae.attributes.statistics import AttributeStatistics
from facevae.attributes.vectors import LatentBatch, mean_difference

NAMES = ("Smiling", "Male")


def _vectors(latents, labels, min_count=1):
    statistics = AttributeStatistics.of_batch(latents, np.ones_like(latents), labels)
    return mean_difference(statistics, NAMES, min_count)


def _scores(vectors):
    return HeldOutScores(vectors.names, vectors.valid, vectors.vectors)


def _auc(latents, labels, vectors, size=1000):
    """The areas of images that come in batches, in turn of both held-out splits."""
    scores = _scores(vectors)
    for start in range(0, len(latents), size):
        z, t = latents[start : start + size], labels[start : start + size]
        scores.add(LatentBatch([""] * len(z), ["val" if start % 2 else "test"] * len(z), z, t))
    return scores.auc()


def _world(images, seed, distance=1.5):
    """Two Gaussian classes per attribute, each along its own axis."""
    random = np.random.default_rng(seed)
    labels = random.choice(np.array([-1, 1], np.int8), (images, 2))
    latents = random.normal(size=(images, 6))
    latents[:, :2] += labels * distance / 2
    return latents, labels


def test_gaussian_classes_give_the_known_auc():
    """Classes D deviations apart: AUC = Phi(D / sqrt(2))."""
    auc = _auc(*_world(20_000, 1), _vectors(*_world(20_000, 0)))
    assert list(auc) == list(NAMES)
    assert auc["Smiling"] == pytest.approx(norm.cdf(1.5 / np.sqrt(2)), abs=0.01)
    assert auc_mean(auc) == pytest.approx(np.mean(list(auc.values())))


def test_missing_labels_and_broken_latents_are_skipped():
    latents, labels = _world(500, 1)
    vectors = _vectors(*_world(500, 0))
    labels[::3, 0] = 0
    latents[10] = np.nan
    used = np.flatnonzero((labels[:, 0] != 0) & np.isfinite(latents).all(axis=1))
    expected = roc_auc_score(labels[used, 0], latents[used] @ vectors.vectors[0])
    found = _auc(latents, labels, vectors, 7)
    assert found["Smiling"] == pytest.approx(expected, abs=1e-12)


def test_images_that_vectors_came_from_do_not_count():
    latents, labels = _world(100, 1)
    vectors = _vectors(*_world(100, 0))
    scores = _scores(vectors)
    scores.add(LatentBatch([""] * 100, ["train"] * 50 + ["val"] * 50, latents, labels))
    assert scores.auc() == _auc(latents[50:], labels[50:], vectors)


def test_one_class_has_no_auc_and_does_not_enter_the_mean():
    latents, labels = _world(100, 1)
    labels[:, 1] = 1
    auc = _auc(latents, labels, _vectors(*_world(100, 0)))
    assert np.isnan(auc["Male"])
    assert auc_mean(auc) == auc["Smiling"]


def test_invalid_attributes_are_left_out():
    latents, labels = _world(100, 0)
    labels[:, 0] = -1
    assert list(_auc(latents, labels, _vectors(latents, labels))) == ["Male"]


def test_no_images_give_nan():
    auc = _scores(_vectors(*_world(100, 0))).auc()
    assert np.isnan(list(auc.values())).all()
    assert np.isnan(auc_mean(auc))


def test_ties_count_half_as_in_scikit_learn():
    random = np.random.default_rng(0)
    latents = random.integers(0, 4, (200, 6)).astype(float)
    labels = random.choice(np.array([-1, 0, 1], np.int8), (200, 2))
    vectors = _vectors(latents, labels)
    vectors.vectors[:] = np.eye(2, 6)
    found = _auc(latents, labels, vectors)
    for number, name in enumerate(NAMES):
        used = labels[:, number] != 0
        expected = roc_auc_score(labels[used, number], latents[used, number])
        assert found[name] == pytest.approx(expected, abs=1e-12)


def test_lda_scores_of_correlated_latents_are_better_than_projections():
    """Two latent dimensions that share noise: only their difference tells the classes apart."""
    latents, labels = _world(4000, 0)
    shared = 3 * np.random.default_rng(7).normal(size=(4000, 1))
    latents[:, [0, 2]] += shared
    train, rest = slice(0, 2000), slice(2000, 4000)
    statistics = AttributeStatistics.of_batch(
        latents[train], np.ones_like(latents[train]), labels[train]
    )
    _, directions = derive_directions([statistics], None, min_count=1)
    projected = _auc(latents[rest], labels[rest], _vectors(latents[train], labels[train]))
    lda = HeldOutScores.of_lda(NAMES, directions)
    lda.add(LatentBatch([""] * 2000, ["val"] * 2000, latents[rest], labels[rest]))
    assert lda.auc()["Smiling"] > 0.74 > 0.68 > projected["Smiling"]
