"""The Frechet distance is that of scipy's matrix root."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from facevae.evaluation.frechet import FeatureMoments, frechet_distance


def features(images: int, seed: int, size=12, shift=0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(size, size)) * np.logspace(0, -2, size)
    return (random.normal(size=(images, size)) @ mixing + shift).astype(np.float32)


def with_scipy(a: np.ndarray, b: np.ndarray) -> float:
    first, second = (np.cov(x.astype(np.float64), rowvar=False) for x in (a, b))
    root = sqrtm(first @ second).real
    mean = a.mean(axis=0, dtype=np.float64) - b.mean(axis=0, dtype=np.float64)
    return float(mean @ mean + np.trace(first + second - 2 * root))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return frechet_distance(FeatureMoments.of(a), FeatureMoments.of(b))


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.3, 1.0), (0.0, 2.0), (5.0, 0.1)])
def test_it_is_that_of_scipy(shift, scale):
    a, b = features(500, 1), scale * features(400, 2, shift=shift)
    assert distance(a, b) == pytest.approx(with_scipy(a, b), rel=1e-3)


def test_of_normal_distributions_that_are_known():
    """Independent features: the sum of (m - n)^2 + (s - t)^2."""
    random = np.random.default_rng(3)
    a, b = random.normal(size=(2, 200_000, 2)) * [[[1, 2]], [[3, 2]]] + [[[0, 0]], [[0, 1]]]
    assert distance(a, b) == pytest.approx(4 + 1, rel=0.02)


def test_equal_sets_are_at_no_distance_and_one_image_is_no_set():
    a = features(50, 1)
    assert distance(a, a) < 1e-9
    assert np.isnan(distance(a, a[:1]))


def test_fewer_images_than_features_give_a_number():
    assert distance(features(5, 1), features(5, 2)) > 0


def test_any_cut_into_parts_gives_the_same():
    a = features(300, 4)
    whole, merged = FeatureMoments.of(a), FeatureMoments.of(a[:0])
    for part in np.array_split(a, 7):
        merged = merged.merge(FeatureMoments.of(part))
    for one, other in zip(whole, merged, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
