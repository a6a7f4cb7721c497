"""Logistic probes are scikit-learn's."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from facevae.evaluation.probes import fit_probes


def world(images=800, size=10, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Features of very different sizes; the third attribute is rare, the fourth nobody has."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(images, size))
    logits = features[:, :4] * 2 + [0, 0.5, -4, -99]
    labels = np.where(random.random((images, 4)) < 1 / (1 + np.exp(-logits)), 1, -1)
    labels[random.random((images, 4)) < 0.1] = 0
    features = features * np.logspace(-3, 3, size) + 50
    features[:, -1] = 3  # never changes
    return features.astype(np.float32), labels.astype(np.int8)


def test_logits_are_those_of_scikit_learn():
    features, labels = world()
    found = fit_probes(features, labels, min_count=5).logits(features)
    standard = (features - features.mean(axis=0)) / np.where(
        features.std(axis=0) > 1e-6, features.std(axis=0), 1
    )
    for k in range(3):
        known = labels[:, k] != 0
        model = LogisticRegression(class_weight="balanced", tol=1e-8, max_iter=1000)
        model.fit(standard[known], labels[known, k])
        expected = model.decision_function(standard)
        np.testing.assert_allclose(found[:, k], expected, atol=1e-3)


def test_an_attribute_with_too_few_images_has_no_probe():
    features, labels = world()
    rare = (labels[:, 2] > 0).sum()
    assert np.isnan(fit_probes(features, labels, min_count=int(rare) + 1).bias).tolist() == [
        False, False, True, True,
    ]  # fmt: skip
    assert not np.isnan(fit_probes(features, labels, min_count=int(rare)).weights[2]).any()
