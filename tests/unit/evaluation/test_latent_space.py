"""KL divergences are torch's, and active units those that move."""

import numpy as np
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from facevae.evaluation.latent_space import LatentMoments, kl_divergence


def posteriors(images=300, size=6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    mean = random.normal(size=(images, size)) * [2, 1, 0.2, 0.11, 0.09, 0]
    return mean.astype(np.float32) + 5, random.uniform(0.01, 1.5, (images, size)).astype(np.float32)


def test_kl_is_that_of_torch():
    mean, variance = posteriors()
    ours = Normal(torch.tensor(mean).double(), torch.tensor(variance).double().sqrt())
    expected = torch_kl(ours, Normal(0.0, 1.0)).numpy()
    np.testing.assert_allclose(kl_divergence(mean, variance), expected, rtol=1e-9)
    np.testing.assert_allclose(LatentMoments.of(mean, variance).kl_mean(), expected.mean(axis=0))


def test_units_are_active_whose_mean_varies_by_more_than_a_hundredth():
    mean, variance = posteriors(20_000)
    assert LatentMoments.of(mean, variance).active_units() == 4  # 0.11^2 is, and 0.09^2 is not


def test_any_cut_into_parts_gives_the_same():
    mean, variance = posteriors()
    whole, merged = LatentMoments.of(mean, variance), LatentMoments.of(mean[:0], variance[:0])
    for part in np.array_split(np.arange(300), 7):
        merged = merged.merge(LatentMoments.of(mean[part], variance[part]))
    for a, b in zip(whole, merged, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
