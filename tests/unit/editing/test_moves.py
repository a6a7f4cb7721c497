"""Moves against independent solvers, and the laws of ways, levels and random faces."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import chi2

from facevae.attributes.estimators import Scorers
from facevae.editing import moves

LATENT = 9


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def covariance(random):
    factor = random.normal(size=(LATENT, LATENT))
    return factor @ factor.T / LATENT + 0.1 * np.eye(LATENT)


@pytest.fixture
def scorers(random):
    return Scorers(random.normal(size=(3, LATENT)), random.normal(size=3), random.uniform(1, 3, 3))


def test_the_smallest_move_is_that_of_a_general_solver(random, covariance, scorers):
    """Least Mahalanobis length under linear constraints, by sequential quadratic programming."""
    changes = np.array([2.0, 0.0, 0.0])
    inverse = np.linalg.inv(covariance)
    solved = minimize(
        lambda move: move @ inverse @ move,
        np.zeros(LATENT),
        jac=lambda move: 2 * inverse @ move,
        constraints={"type": "eq", "fun": lambda move: scorers.weights @ move - changes},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    (found,) = moves.smallest_move(scorers.weights, changes[:, None], covariance)
    np.testing.assert_allclose(scorers.weights @ found, changes, atol=1e-12)
    np.testing.assert_allclose(found, solved.x, atol=1e-5)


def test_held_scores_do_not_change_and_the_correction_is_the_smallest(random, covariance, scorers):
    start, held = random.normal(size=(2, LATENT)), scorers.weights[1:]
    found = moves.hold_scores(start, held, covariance)
    np.testing.assert_allclose(held @ found.T, 0, atol=1e-12)
    inverse = np.linalg.inv(covariance)
    free = np.linalg.svd(held)[2][2:]  # moves that change no held score
    # Of least length: nothing that holds the scores can be added to the correction for less.
    np.testing.assert_allclose(free @ inverse @ (found - start).T, 0, atol=1e-10)


def test_the_corrected_mean_direction_is_the_smallest_move_of_all(covariance, scorers):
    """With w = S^-1 d, correcting d for the held scores is the constrained minimum."""
    weights = scorers.weights
    corrected = moves.hold_scores(weights[:1] @ covariance, weights[1:], covariance)[0]
    (smallest,) = moves.smallest_move(weights, np.array([[1.0], [0], [0]]), covariance)
    np.testing.assert_allclose(corrected / (weights[0] @ corrected), smallest)


def test_scores_that_are_one_are_found(random, covariance):
    weights = random.normal(size=(4, LATENT))
    assert moves.same_scores(weights, covariance) is None
    weights[3] = -2 * weights[1] + 1e-4 * weights[0]
    assert moves.same_scores(weights, covariance) == (1, 3)
    assert moves.same_scores(weights[:1], covariance) is None


def test_every_face_comes_to_the_levels_asked_for(random, scorers):
    latents, directions = random.normal(size=(5, LATENT)), random.normal(size=(3, LATENT))
    targets = random.normal(size=(5, 4, 3))
    moved = moves.to_levels(latents, directions, scorers, targets)
    found = scorers.levels(moved.reshape(-1, LATENT)).reshape(5, 4, 3)
    np.testing.assert_allclose(found, targets, atol=1e-9)
    in_plane = np.linalg.lstsq(directions.T, (moved - latents[:, None]).reshape(-1, LATENT).T)
    np.testing.assert_allclose(in_plane[1], 0, atol=1e-18)  # along the directions, nothing else


@pytest.mark.parametrize("size", [4, 8, 32, 100, 512])
def test_the_radius_is_the_chi_squared_quantile(size):
    assert moves.radius(size) == pytest.approx(np.sqrt(chi2.ppf(0.999, size)), rel=0.01)


def distances(latents, mean, covariance):
    centred = latents - mean
    return np.sqrt(np.einsum("...z,zy,...y->...", centred, np.linalg.inv(covariance), centred))


def test_damped_moves_end_at_the_edge_of_the_data_and_on_their_way(random, covariance):
    mean = random.normal(size=LATENT)
    latents = mean + random.multivariate_normal(np.zeros(LATENT), covariance, 6)
    step = np.array([0.0, 0.5, 3.0, -40.0])[None, :, None] * random.normal(size=LATENT)
    moved = latents[:, None] + step
    damped, stopped = moves.damp(latents, moved, mean, covariance, np.zeros(LATENT))
    edge = moves.radius(LATENT)
    assert stopped[:, 3].all()
    assert not stopped[:, 0].any()
    np.testing.assert_array_equal(damped[~stopped], moved[~stopped])
    far = distances(damped, mean, covariance)
    np.testing.assert_allclose(far[stopped], edge, rtol=1e-9)
    assert (far[~stopped] <= edge).all()
    share = (damped - latents[:, None])[:, 3] / (moved - latents[:, None])[:, 3]
    np.testing.assert_allclose(share, share[:, :1] * np.ones(LATENT))
    assert ((share > 0) & (share < 1)).all()


def test_a_face_outside_the_data_may_come_in_and_goes_no_further_out(covariance):
    mean = np.zeros(LATENT)
    outside = np.linalg.cholesky(covariance)[:, :1].T * 2 * moves.radius(LATENT)
    moved = outside[:, None] * np.array([0.5, 1.0, 1.5])[None, :, None]
    damped, stopped = moves.damp(outside, moved, mean, covariance, np.zeros(LATENT))
    np.testing.assert_array_equal(stopped, [[False, False, True]])
    np.testing.assert_allclose(damped[0, 2], outside[0])


@pytest.mark.parametrize("sign", [1, -1])
def test_a_face_outside_the_data_may_move_by_one_difference_of_means(covariance, sign):
    root = np.linalg.cholesky(covariance)
    outside, gap = root[:, :1].T * 2 * moves.radius(LATENT), root[:, 1]
    moved = outside[:, None] + sign * np.array([0.5, 1.0, 1.5])[None, :, None] * gap
    damped, stopped = moves.damp(outside, moved, np.zeros(LATENT), covariance, gap)
    np.testing.assert_array_equal(stopped, [[False, False, True]])
    np.testing.assert_allclose(damped[0, 2], moved[0, 1])


@pytest.mark.parametrize("centre", [None, np.full(LATENT, 0.3)])
def test_a_way_begins_and_ends_at_its_faces(random, centre):
    first, second = random.normal(size=(2, LATENT))
    way = moves.interpolate(first, second, 7, centre)
    np.testing.assert_allclose(way[[0, -1]], [first, second], atol=1e-12)
    back = moves.interpolate(second, first, 7, centre)
    np.testing.assert_allclose(way, back[::-1], atol=1e-12)


def test_the_arc_turns_evenly_and_stays_as_far_out_as_faces_are(random):
    first, second = random.normal(size=(2, LATENT))
    centre = np.full(LATENT, 0.3)
    way = moves.interpolate(first, second, 7, centre) - centre
    lengths = np.linalg.norm(way, axis=1)
    np.testing.assert_allclose(lengths, np.linspace(lengths[0], lengths[-1], 7))
    units = way / lengths[:, None]
    turns = np.arccos(np.sum(units[1:] * units[:-1], axis=1))
    np.testing.assert_allclose(turns, turns[0])
    straight = moves.interpolate(first, second, 3)[1] - centre
    assert np.linalg.norm(straight) < 0.9 * lengths[3]


@pytest.mark.parametrize("second", [-1.0, 0.0, 1.0, 2.0])
def test_faces_on_one_line_with_the_mean_have_a_straight_way(second):
    first = np.arange(1.0, LATENT + 1)
    way = moves.interpolate(first, second * first, 5, np.zeros(LATENT))
    np.testing.assert_allclose(way, np.linspace(1, second, 5)[:, None] * first, atol=1e-9)


def test_random_faces_have_the_mean_and_the_variance_of_sampled_latents(random, covariance):
    mean, variance = random.normal(size=LATENT), random.uniform(0.1, 1, LATENT)
    found = moves.random_latents(mean, covariance, variance, 200_000, seed=4)
    np.testing.assert_allclose(found.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(found.T), covariance + np.diag(variance), atol=0.03)
    few = moves.random_latents(mean, covariance, variance, 3, seed=4)
    np.testing.assert_allclose(few, found[:3])
    other = moves.random_latents(mean, covariance, variance, 3, seed=5)
    assert not np.isclose(few, other).any()


def test_components_are_those_of_the_singular_values(random, covariance):
    data = random.multivariate_normal(np.zeros(LATENT), covariance, 500)
    data -= data.mean(axis=0)
    _, values, axes = np.linalg.svd(data)
    found, shares = moves.principal_components(data.T @ data / 500, 4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), values[:4] / np.sqrt(500))
    np.testing.assert_allclose(shares, values[:4] ** 2 / (values**2).sum())
    cosines = np.sum(found * axes[:4], axis=1) / np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(np.abs(cosines), 1)
    assert (np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1) > 0).all()
