"""Where a latent lies among the stored faces."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from facevae.attributes.hdf5 import read_slices, write_hdf5
from facevae.attributes.population import read_population
from facevae.attributes.vectors import AttributeVectors, LatentBatch
from facevae.errors import UserError

IMAGES, SIZE = 5000, 4


def vectors(latents: np.ndarray, labels: np.ndarray) -> AttributeVectors:
    directions = np.stack(
        [latents[column > 0].mean(axis=0) - latents[column < 0].mean(axis=0) for column in labels.T]
    ).astype(np.float32)
    return AttributeVectors(
        names=("Smiling", "Male"),
        vectors=directions,
        positive_count=(labels > 0).sum(axis=0),
        negative_count=(labels < 0).sum(axis=0),
        standard_errors=np.zeros_like(directions),
        valid=np.isfinite(directions).all(axis=1),
    )


@pytest.fixture
def stored(tmp_path):
    """A file, and what is in it."""
    random = np.random.default_rng(0)
    labels = random.choice(np.array([-1, 0, 1], np.int8), (IMAGES, 2))
    mixing = random.normal(size=(SIZE, SIZE))
    latents = (random.normal(size=(IMAGES, SIZE)) @ mixing + 3 + 2 * labels[:, :1]).astype("f4")
    uri = tmp_path / "vectors.h5"
    ids = [str(row) for row in range(IMAGES)]
    batch = LatentBatch(ids, ["train"] * IMAGES, latents, labels)
    made = vectors(latents, labels)
    write_hdf5(uri, made, [batch], IMAGES)
    return uri, made, latents.astype(np.float64), labels


def test_distances_are_scipys_and_quantiles_those_of_the_faces(stored):
    uri, made, latents, _ = stored
    population = read_population(uri, made)
    inverse = np.linalg.inv(np.cov(latents.T))
    expected = [mahalanobis(z, latents.mean(axis=0), inverse) for z in latents[:50]]
    np.testing.assert_allclose(population.distance(latents[:50]), expected, rtol=1e-6)
    farthest = population.farthest(0.9)
    inside = population.distance(latents) <= farthest
    assert inside.mean() == pytest.approx(0.9, abs=1e-3)
    assert population.share_nearer(farthest) == pytest.approx(0.9, abs=1e-3)
    assert population.share_nearer(1e9) == 1.0


def test_scores_are_half_a_gap_from_the_middle_for_the_mean_faces(stored):
    uri, made, latents, labels = stored
    population = read_population(uri, made)
    assert population.names == ("Smiling", "Male")
    for index in range(2):
        for sign in (-1, 1):
            scores = population.scores(latents[labels[:, index] == sign])
            assert scores[:, index].mean() == pytest.approx(sign / 2, abs=1e-6)
    moved = population.scores(latents[:3] + made.vectors[0]) - population.scores(latents[:3])
    np.testing.assert_allclose(moved[:, 0], 1, rtol=1e-5)  # one vector is one gap


def test_an_unused_dimension_is_no_infinite_distance(stored, tmp_path):
    _, made, latents, labels = stored
    latents = latents.copy()
    latents[:, 2] = 7
    ids = [str(row) for row in range(IMAGES)]
    uri = tmp_path / "collapsed.h5"
    write_hdf5(uri, made, [LatentBatch(ids, [""] * IMAGES, latents, labels)], IMAGES)
    population = read_population(uri, made)
    assert np.isfinite(population.distances).all()
    assert population.distances[-1] < 20


def test_an_attribute_without_a_vector_has_no_score(stored):
    uri, made, latents, _ = stored
    valid = np.array([False, True])
    one = AttributeVectors(**{**vars(made), "valid": valid})
    population = read_population(uri, one)
    assert population.names == ("Male",)
    assert population.scores(latents[:2]).shape == (2, 1)


def test_of_very_many_faces_some_are_read(stored):
    uri, _, latents, labels = stored
    whole = list(read_slices(uri))
    np.testing.assert_array_equal(np.concatenate([part for part, _ in whole]), latents)
    np.testing.assert_array_equal(np.concatenate([part for _, part in whole]), labels)
    assert len(list(read_slices(uri, most_values=1))) == 1


def test_a_file_without_faces_is_one_line(stored, tmp_path):
    _, made, _, _ = stored
    none = LatentBatch([], [], np.empty((0, SIZE), np.float32), np.empty((0, 2), np.int8))
    write_hdf5(tmp_path / "empty.h5", made, [none], 0)
    with pytest.raises(UserError, match="holds no latents of faces"):
        read_population(tmp_path / "empty.h5", made)
