"""Moves of latents, as pure functions: along attributes, to a level, between faces, at random.

An attribute's *level* in a latent is its linear score on a scale on which the mean face without it
has 0 and the mean face with it 1 (`Scorers`). Distances are Mahalanobis distances in the covariance
of the training latents.

Legend: F faces, K moves or columns, m attributes, Z latent size.
"""

from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float, Float64

from facevae.attributes.estimators import Scorers

INSIDE = 0.999
"""share of a Gaussian within the ellipsoid that damped moves stay in"""
SAME_SCORE = 1e-4
"""smallest eigenvalue of the correlations of scores that are still different scores"""


def smallest_move(
    weights: Float64[np.ndarray, "m Z"],
    changes: Float64[np.ndarray, "m n"],
    covariance: Float64[np.ndarray, "Z Z"],
) -> Float64[np.ndarray, "n Z"]:
    """The moves of least Mahalanobis length that change scores w.z by given amounts.

    S W (W^T S W)^-1 c, for each column c of the changes; S the covariance, W the weights.
    """
    pull = weights @ covariance
    return np.asarray(np.linalg.solve(pull @ weights.T, changes).T @ pull)


def hold_scores(
    moves: Float64[np.ndarray, "n Z"],
    held: Float64[np.ndarray, "m Z"],
    covariance: Float64[np.ndarray, "Z Z"],
) -> Float64[np.ndarray, "n Z"]:
    """The moves, each with the smallest correction after which no held score changes."""
    return np.asarray(moves - smallest_move(held, held @ moves.T, covariance))


def same_scores(
    weights: Float64[np.ndarray, "m Z"], covariance: Float64[np.ndarray, "Z Z"]
) -> tuple[int, int] | None:
    """The two scores most alike, if one of all is all but determined by the others; else none."""
    products = weights @ covariance @ weights.T
    lengths = np.sqrt(products.diagonal())
    correlation = products / np.outer(lengths, lengths)
    if len(weights) < 2 or np.linalg.eigvalsh(correlation)[0] > SAME_SCORE:
        return None
    alike = np.abs(correlation) - np.eye(len(weights)) * 2
    first, second = np.unravel_index(int(alike.argmax()), alike.shape)
    return int(min(first, second)), int(max(first, second))


def to_levels(
    latents: Float[np.ndarray, "F Z"],
    directions: Float64[np.ndarray, "m Z"],
    scorers: Scorers,
    targets: Float64[np.ndarray, "F K m"],
) -> Float64[np.ndarray, "F K Z"]:
    """Each face moved along the directions until its attributes have the target levels.

    Directions of several attributes change each other's levels: the amounts solve for all at once.
    """
    change = directions @ scorers.weights.T / scorers.gap
    wanted = targets - scorers.levels(latents)[:, None]
    return np.asarray(latents[:, None] + wanted @ np.linalg.inv(change) @ directions)


def radius(latent_size: int) -> float:
    """The Mahalanobis radius of the ellipsoid that holds `INSIDE` of a Gaussian.

    The root of the chi-squared quantile, by Wilson and Hilferty (1931): good to 1 % from 4
    dimensions on.
    """
    spread = 2 / (9 * latent_size)
    quantile = NormalDist().inv_cdf(INSIDE)
    return float(np.sqrt(latent_size * (1 - spread + quantile * np.sqrt(spread)) ** 3))


def damp(
    latents: Float[np.ndarray, "F Z"],
    moved: Float[np.ndarray, "F K Z"],
    mean: Float64[np.ndarray, " Z"],
    covariance: Float64[np.ndarray, "Z Z"],
    gap: Float[np.ndarray, " Z"],
) -> tuple[Float64[np.ndarray, "F K Z"], Bool[np.ndarray, "F K"]]:
    """The moved faces, each stopped on its way where it would leave the data; and which were.

    The way ends where its distance from the mean exceeds the radius. A face that lies outside
    already goes no further out than `gap`, one difference of class means, takes it: as far as that,
    data tell how faces differ. (A face of one's own photo is outside more often than not, and
    almost every move takes it further.)
    """
    lower = np.linalg.cholesky(covariance)
    start = np.linalg.solve(lower, (latents - mean).T).T
    step = np.linalg.solve(lower, (moved - latents[:, None]).reshape(-1, len(mean)).T).T
    step = step.reshape(moved.shape)
    one = np.linalg.solve(lower, gap)
    # |start + t step|^2 = limit^2, a quadratic equation for the share t of the way
    limit = np.maximum(radius(len(mean)) ** 2, (start**2).sum(axis=1))
    for end in (start + one, start - one):
        limit = np.maximum(limit, (end**2).sum(axis=1))
    limit = limit[:, None]
    a, b = (step**2).sum(axis=2), np.einsum("fkz,fz->fk", step, start)
    inside = np.maximum(limit - (start**2).sum(axis=1)[:, None], 0)
    root = -b + np.sqrt(b**2 + a * inside)
    share = np.minimum(root / np.where(a > 0, a, 1), 1)
    share = np.where(a > 0, share, 1.0)
    # The sum is exact where nothing is stopped: a face at strength 0 stays as it is.
    stopped = share < 1 - 1e-9  # a move of one gap ends at the limit, to rounding
    shortened = latents[:, None] + share[..., None] * (moved - latents[:, None])
    return np.where(stopped[..., None], shortened, moved), stopped


def interpolate(
    first: Float[np.ndarray, " Z"],
    second: Float[np.ndarray, " Z"],
    steps: int,
    centre: Float64[np.ndarray, " Z"] | None = None,
) -> Float64[np.ndarray, "K Z"]:
    """Latents from the first to the second, both included: straight, or on an arc.

    The arc turns evenly around `centre` (none: straight), while the distance from it goes evenly
    from the first's to the second's (Shoemake, 1985). Opposite latents have no one arc: straight.
    """
    share = np.linspace(0, 1, steps)[:, None]
    straight = first + share * (second - first)
    if centre is None:
        return np.asarray(straight, np.float64)
    a, b = first - centre, second - centre
    length_a, length_b = np.linalg.norm(a), np.linalg.norm(b)
    if min(length_a, length_b) == 0:
        return np.asarray(straight, np.float64)
    angle = np.arccos(np.clip(a @ b / (length_a * length_b), -1, 1))
    if np.sin(angle) < 1e-6:
        return np.asarray(straight, np.float64)
    turned = np.sin((1 - share) * angle) * a / length_a + np.sin(share * angle) * b / length_b
    length = (1 - share) * length_a + share * length_b
    return np.asarray(centre + length * turned / np.sin(angle), np.float64)


def random_latents(
    mean: Float64[np.ndarray, " Z"],
    covariance: Float64[np.ndarray, "Z Z"],
    posterior_variance: Float64[np.ndarray, " Z"],
    count: int,
    seed: int,
) -> Float64[np.ndarray, "K Z"]:
    """Latents from the Gaussian of what the decoder was trained on: N(mean, S + diag(v)).

    S is the covariance of posterior means and v the mean posterior variance: together they are the
    variance of sampled latents. Of a seed, the first faces are the same whatever their number.
    """
    lower = np.linalg.cholesky(covariance + np.diag(posterior_variance))
    noise = np.random.default_rng(seed).normal(size=(count, len(mean)))
    return np.asarray(mean + noise @ lower.T)


def principal_components(
    covariance: Float64[np.ndarray, "Z Z"], count: int
) -> tuple[Float64[np.ndarray, "K Z"], Float64[np.ndarray, " K"]]:
    """The directions of most variance, one standard deviation long, and their shares of it.

    The largest entry of each is positive, so that the sign is no matter of the library.
    """
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors.T[::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    directions = vectors * np.sign(largest) * np.sqrt(np.maximum(values, 0))[:, None]
    return directions[:count], values[:count] / values.sum()
