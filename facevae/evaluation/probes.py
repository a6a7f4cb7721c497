"""Logistic probes: what a face network's features tell of each attribute.

Legend: n images, F features, A attributes.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int8
from torch.nn import functional as F

PENALTY = 1.0
"""of half the squared weights, beside the sum of the images' losses: scikit-learn's C of 1"""
ROUNDS = 200


class Probes(NamedTuple):
    """A logistic regression per attribute on standardised features; a logit of 0 is the border."""

    weights: Float64[np.ndarray, "A F"]
    """of features as they come; NaN where an attribute has no probe"""
    bias: Float64[np.ndarray, " A"]

    def logits(self, features: Float[np.ndarray, "n F"]) -> Float32[np.ndarray, "n A"]:
        """The log-odds that each image has each attribute; NaN where there is no probe."""
        return np.asarray(features.astype(np.float64) @ self.weights.T + self.bias, np.float32)


def fit_probes(
    features: Float[np.ndarray, "n F"], labels: Int8[np.ndarray, "n A"], min_count: int
) -> Probes:
    """The probes of all attributes at once: convex, so the same from any start.

    Both classes of an attribute weigh the same in its probe, however rare one is, so that the
    border lies between them. Missing labels (0) are left out.

    Args:
        features: of training images.
        labels: -1, 0 (missing) or +1.
        min_count: an attribute needs so many images of each class for a probe.
    """
    mean, deviation = _standard(features)
    inputs = torch.from_numpy((features - mean) / deviation).double()
    signs = torch.from_numpy(labels).double()
    present, absent = (signs > 0).sum(dim=0), (signs < 0).sum(dim=0)
    known = (torch.minimum(present, absent) >= max(min_count, 1)).numpy()
    total = present + absent
    share = torch.where(signs > 0, total / (2 * present), total / (2 * absent))
    importance = torch.where((signs != 0) & torch.from_numpy(known), share, 0.0)
    weights = torch.zeros(labels.shape[1], features.shape[1], dtype=torch.float64)
    bias = torch.zeros(labels.shape[1], dtype=torch.float64)
    _minimise(inputs, signs, importance, weights, bias)
    plain = weights.numpy() / deviation
    return _without(plain, bias.numpy() - plain @ mean, known)


def _minimise(
    inputs: torch.Tensor,
    signs: torch.Tensor,
    importance: torch.Tensor,
    weights: torch.Tensor,
    bias: torch.Tensor,
) -> None:
    """Move weights and bias, in place, to the least penalised loss of each attribute."""
    parameters = [weights.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=ROUNDS, tolerance_grad=1e-6, history_size=20,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        margins = signs * (inputs @ weights.T + bias)
        value = (importance * F.softplus(-margins)).sum() + PENALTY / 2 * weights.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    for parameter in parameters:
        parameter.requires_grad_(False)


def _standard(
    features: Float[np.ndarray, "n F"],
) -> tuple[Float64[np.ndarray, " F"], Float64[np.ndarray, " F"]]:
    """Mean and standard deviation of each feature; of one that never changes, 1."""
    deviation = features.std(axis=0, dtype=np.float64)
    deviation[deviation < 1e-9 * np.maximum(deviation.max(initial=0), 1e-30)] = 1.0
    return features.mean(axis=0, dtype=np.float64), deviation


def _without(
    weights: Float64[np.ndarray, "A F"],
    bias: Float64[np.ndarray, " A"],
    known: Bool[np.ndarray, " A"],
) -> Probes:
    """The probes, NaN where an attribute is not known."""
    return Probes(np.where(known[:, None], weights, np.nan), np.where(known, bias, np.nan))
