"""Regression and discriminants equal scikit-learn's; covariances that can be inverted."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression, Ridge

from facevae.attributes.estimators import (
    EIGENVALUE_FLOOR,
    choose_ridge,
    lda_scorers,
    ridge_coefficients,
    shrink,
    variance_inflation,
)
from tests.unit.attributes.worlds import ATTRIBUTES, LATENT, statistics, world

ALL = np.ones(ATTRIBUTES, bool)


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.3])
def test_the_regression_is_scikit_learns(ridge):
    latents, labels, _ = world()
    total = statistics(latents, labels)
    alpha = ridge * labels.var(axis=0).sum() / ATTRIBUTES * len(labels)
    expected = Ridge(alpha=alpha).fit(labels.astype(float), latents).coef_.T
    found = ridge_coefficients(total, ALL, ridge)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_scores_are_scikit_learns_discriminant(missing):
    latents, labels, _ = world(missing=missing)
    found = lda_scorers(statistics(latents, labels), ALL, shrinkage=0.0)
    for k in range(ATTRIBUTES):
        rows = labels[:, k] != 0
        model = LinearDiscriminantAnalysis(solver="lsqr").fit(latents[rows], labels[rows, k])
        np.testing.assert_allclose(found.weights[k], model.coef_[0], rtol=1e-6, atol=1e-9)
        prior = np.log(model.priors_[1] / model.priors_[0])
        assert found.bias[k] == pytest.approx(model.intercept_[0] - prior, rel=1e-6)


class ShrunkTo:
    """A covariance for scikit-learn with a given target."""

    def __init__(self, shrinkage=0.0, target=0.0):
        self.shrinkage, self.target = shrinkage, target

    def get_params(self, deep=True):
        return {"shrinkage": self.shrinkage, "target": self.target}

    def set_params(self, **params):
        return self.__class__(**params)

    def fit(self, rows):
        own = np.cov(rows.T, bias=True)
        self.covariance_ = (1 - self.shrinkage) * own + self.shrinkage * self.target * np.eye(
            len(own)
        )
        return self


def test_shrunk_scores_are_scikit_learns_with_that_shrinkage():
    latents, labels, _ = world(images=300)
    target = np.cov(latents.T, bias=True).trace() / LATENT
    found = lda_scorers(statistics(latents, labels), ALL, shrinkage=0.2)
    for k in range(ATTRIBUTES):
        model = LinearDiscriminantAnalysis(
            solver="lsqr", covariance_estimator=ShrunkTo(0.2, target)
        ).fit(latents, labels[:, k])
        np.testing.assert_allclose(found.weights[k], model.coef_[0], rtol=1e-6)


def test_the_shrinkage_comes_closer_to_the_true_covariance_and_vanishes_with_many_images():
    random = np.random.default_rng(0)
    truth = np.diag(np.linspace(1, 2, 40))
    rows = random.normal(size=(30, 40)) @ np.sqrt(truth)
    covariance = np.cov(rows.T, bias=True)
    few = shrink(covariance, 30)
    assert np.linalg.norm(few.matrix - truth) < 0.5 * np.linalg.norm(covariance - truth)
    assert 0.3 < few.shrinkage <= 1
    assert shrink(covariance, 10**7).shrinkage < 1e-4
    np.testing.assert_allclose(few.matrix @ few.inverse, np.eye(40), atol=1e-9)


def test_a_collapsed_dimension_has_a_floor_and_is_not_counted():
    found = shrink(np.diag([4.0, 1.0, 0.0]), 100, shrinkage=0.0)
    assert found.rank == 2
    np.testing.assert_allclose(np.diag(found.matrix), [4, 1, 4 * EIGENVALUE_FLOOR])
    assert np.isfinite(found.inverse).all()


def test_variance_inflation_is_that_of_the_regression_on_the_others():
    latents, labels, _ = world()
    found = variance_inflation(statistics(latents, labels), ALL)
    for k in range(ATTRIBUTES):
        others = np.delete(labels, k, axis=1).astype(float)
        explained = LinearRegression().fit(others, labels[:, k]).score(others, labels[:, k])
        assert found[k] == pytest.approx(1 / (1 - explained), rel=1e-8)


def test_a_label_that_another_determines_has_an_infinite_inflation_and_the_rest_have_not():
    latents, labels, _ = world(common=0.3)
    labels[:, 1] = -labels[:, 0]
    found = variance_inflation(statistics(latents, labels), ALL)
    assert np.isinf(found[:2]).all()
    assert (found[2:] < 3).all()


def test_the_ridge_is_the_one_that_predicts_best():
    """Against predictions of the images themselves; few images and much noise ask for a large."""
    latents, labels, _ = world(images=60, noise=8)
    other, other_labels, _ = world(images=3000, noise=8)
    train, validation = statistics(latents, labels), statistics(other, other_labels)
    chosen = choose_ridge(train, validation, ALL)

    def error(ridge):
        guess = (other_labels - other_labels.mean(axis=0)) @ ridge_coefficients(train, ALL, ridge)
        return ((other - other.mean(axis=0) - guess) ** 2).sum()

    assert chosen == min((1e-4, 1e-3, 1e-2, 1e-1), key=error) == 0.1
    assert choose_ridge(train, None, ALL) == 1e-3
