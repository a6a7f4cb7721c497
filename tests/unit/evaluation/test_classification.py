"""Measures of histograms are scikit-learn's, and know validation from test."""

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    roc_auc_score,
)

from facevae.evaluation.classification import (
    Histograms,
    Rates,
    ScoreMoments,
    accuracies,
    average_precision,
    roc_auc,
)

SHARES = (0.5, 0.2, 0.02, 0.9, 0.5)
"""of images with each attribute"""


def world(images: int, seed: int, gap=1.5) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of images, some labels missing; the last scores tell nothing."""
    random = np.random.default_rng(seed)
    labels = np.where(random.random((images, 5)) < SHARES, 1, -1).astype(np.int8)
    scores = random.normal(size=(images, 5)) + gap * (labels > 0) * [1, 1, 1, 1, 0]
    scores *= [1, 1e-3, 1e3, 1, 1]
    scores[:, 3] += 1e4
    labels[random.random((images, 5)) < 0.1] = 0
    return scores.astype(np.float32), labels


def histograms(scores, labels) -> Histograms:
    return Histograms.of(ScoreMoments.of(scores).scale(), scores, labels)


def with_sklearn(measure, scores, labels) -> list[float]:
    columns = zip(scores.T, labels.T, strict=True)
    return [measure(label[label != 0] > 0, score[label != 0]) for score, label in columns]


@pytest.mark.parametrize("images", [1_000, 20_000])
def test_areas_are_those_of_scikit_learn(images):
    scores, labels = world(images, 1)
    found = histograms(scores, labels)
    auc = with_sklearn(roc_auc_score, scores, labels)
    np.testing.assert_allclose(roc_auc(found), auc, atol=1e-3)
    precision = with_sklearn(average_precision_score, scores, labels)
    np.testing.assert_allclose(average_precision(found), precision, atol=1e-3)


def test_scores_that_are_all_alike_tell_nothing():
    labels = np.repeat(np.array([[1], [-1], [-1]], np.int8), 100, axis=0)
    found = histograms(np.full((300, 1), 7.0, np.float32), labels)
    assert roc_auc(found) == [0.5]
    np.testing.assert_allclose(average_precision(found), [1 / 3], atol=3e-3)


def test_outliers_cost_nothing_but_their_own_order():
    scores, labels = world(20_000, 2)
    scores[:20, 0] = 1e6
    labels[:20, 0] = -1
    found = histograms(scores, labels)
    expected = with_sklearn(roc_auc_score, scores, labels)
    # 20 huge scores widen the bins, so that nearly all images share a few.
    assert abs(roc_auc(found)[1] - expected[1]) < 1e-3


def test_accuracies_are_those_of_scikit_learn_at_validation_thresholds():
    (seen, seen_labels), (new, new_labels) = world(4_000, 3), world(6_000, 4)
    scale = ScoreMoments.of(np.concatenate([seen, new])).scale()
    validation, test = (
        Histograms.of(scale, seen, seen_labels),
        Histograms.of(scale, new, new_labels),
    )
    found = accuracies(validation, test)
    edges, rates = scale.edges(), Rates.of(validation)
    for k in range(5):
        for measure, wanted, value in (
            (accuracy_score, rates.all, found.accuracy),
            (balanced_accuracy_score, rates.balanced, found.balanced),
        ):
            best = np.flatnonzero(wanted[k] == wanted[k].max())
            threshold = edges[k, best[len(best) // 2]]
            known = new_labels[:, k] != 0
            expected = measure(new_labels[known, k] > 0, new[known, k] >= threshold)
            assert abs(value[k] - expected) < 1e-3
            # No threshold of validation is better there than the one that was taken.
            old = seen_labels[:, k] != 0
            truth, values = seen_labels[old, k] > 0, seen[old, k]
            best_there = max(measure(truth, values >= t) for t in np.quantile(values, SHARES))
            assert wanted[k].max() >= best_there - 1e-3
        known = new_labels[:, k] != 0
        is_most = (new_labels[known, k] > 0).mean()
        assert found.majority[k] == pytest.approx(is_most if SHARES[k] >= 0.5 else 1 - is_most,
                                                  abs=0.03)  # fmt: skip


def test_a_threshold_that_only_test_likes_is_not_taken():
    """Validation says 0, test would say 2: the accuracy is that of 0."""
    labels = np.repeat(np.array([[1], [-1]], np.int8), 500, axis=0)
    seen = np.where(labels > 0, 1.0, -1.0).astype(np.float32)
    new = seen + 2  # all above 0
    scale = ScoreMoments.of(np.concatenate([seen, new])).scale()
    found = accuracies(Histograms.of(scale, seen, labels), Histograms.of(scale, new, labels))
    assert found.accuracy == [0.5]
    assert found.balanced == [0.5]


@pytest.mark.parametrize("missing", ["test", "validation"])
def test_a_class_without_images_has_no_value(missing):
    scores, labels = world(500, 5)
    one_sided = np.where(labels > 0, labels, 0).astype(np.int8)
    scale = ScoreMoments.of(scores).scale()
    both = Histograms.of(scale, scores, labels), Histograms.of(scale, scores, one_sided)
    validation, test = both if missing == "test" else both[::-1]
    for values in accuracies(validation, test):
        assert np.isnan(values).all()
    assert np.isnan(roc_auc(both[1])).all()
    assert np.isnan(average_precision(both[1])).all()


def test_any_cut_into_parts_gives_the_same():
    scores, labels = world(1_000, 6)
    scores[7] = np.nan
    parts = np.array_split(np.arange(1_000), 7)
    whole, merged = ScoreMoments.of(scores), ScoreMoments.of(scores[:0])
    for part in parts:
        merged = merged.merge(ScoreMoments.of(scores[part]))
    for a, b in zip(whole, merged, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    found = Histograms.of(whole.scale(), scores[:0], labels[:0])
    for part in parts:
        found = found.merge(Histograms.of(whole.scale(), scores[part], labels[part]))
    for a, b in zip(found, histograms(scores, labels), strict=True):
        np.testing.assert_array_equal(a, b)
    assert found.positive.dtype == np.int64
    assert found.positive.sum() + found.negative.sum() == (np.delete(labels, 7, 0) != 0).sum()
