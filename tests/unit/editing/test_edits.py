"""Edits of stored faces: which latents they ask for, and what cannot be asked for."""

import dataclasses

import numpy as np
import pytest

from facevae.attributes.directions import derive_directions
from facevae.attributes.hdf5 import write_hdf5
from facevae.attributes.statistics import AttributeStatistics
from facevae.attributes.vectors import AttributeVectors, LatentBatch, mean_difference
from facevae.config import EditingConfig
from facevae.editing.edits import (
    check_edit,
    directions_of,
    edit_latents,
    edit_stored,
    methods_of,
)
from facevae.errors import UserError

NAMES = ("Smiling", "Male", "Young", "Twin")
LATENT, IMAGES = 6, 4000


def made(twin_of_male: bool = False):
    """Latents of correlated labels, and what is derived of them; perhaps two labels are one."""
    random = np.random.default_rng(0)
    hidden = random.normal(size=(IMAGES, 1))
    labels = np.where(hidden + random.normal(size=(IMAGES, 4)) > 0, 1, -1).astype(np.int8)
    if twin_of_male:
        labels[:, 3] = labels[:, 1]
    latents = labels @ random.normal(size=(4, LATENT)) + random.normal(size=(IMAGES, LATENT))
    parts = [
        AttributeStatistics.of_batch(latents[i::5], np.ones_like(latents[i::5]), labels[i::5])
        for i in range(5)
    ]
    total, directions = derive_directions(
        parts, None, min_count=25, posterior_variance=np.full(LATENT, 0.2)
    )
    vectors = dataclasses.replace(mean_difference(total, NAMES), directions=directions)
    return latents, labels, vectors


@pytest.fixture(scope="module")
def world():
    return made()


@pytest.fixture(scope="module")
def vectors(world) -> AttributeVectors:
    return world[2]


@pytest.fixture(scope="module")
def old(vectors) -> AttributeVectors:
    """Vectors of a file of the original, or of an older version."""
    return dataclasses.replace(vectors, directions=None)


@pytest.fixture(scope="module")
def uri(world, tmp_path_factory) -> str:
    latents, labels, vectors = world
    path = str(tmp_path_factory.mktemp("edits") / "v.h5")
    ids = [f"{row:04d}.jpg" for row in range(IMAGES)]
    batch = LatentBatch(ids, ["train"] * IMAGES, latents, labels)
    write_hdf5(path, vectors, [batch], IMAGES)
    return path


def config(**settings) -> EditingConfig:
    return EditingConfig(**settings)


def edited(world, **settings) -> np.ndarray:
    """The first three faces, edited."""
    names = ["a", "b", "c"]
    return edit_latents(names, world[0][:3], world[2], config(**settings)).latents


def score_changes(vectors, move) -> dict[str, float]:
    """What a move changes the levels of all attributes by."""
    scorers = vectors.directions.scorers()
    return dict(zip(NAMES, scorers.weights @ move / scorers.gap, strict=True))


def test_auto_is_partial_where_the_file_has_it_and_mean_where_not(vectors, old):
    directions = vectors.directions
    np.testing.assert_array_equal(directions_of(vectors, config())[0], directions.partial[0])
    np.testing.assert_array_equal(directions_of(old, config())[0], old.vectors[0])
    np.testing.assert_array_equal(
        directions_of(vectors, config(method="mean"))[0], vectors.vectors[0]
    )
    along = directions_of(vectors, config(method="lda"))[0]
    assert along @ directions.lda[0] == pytest.approx(
        np.linalg.norm(along) * np.linalg.norm(directions.lda[0])
    )


def test_the_preset_is_the_originals_move_undamped(world, vectors):
    preset = config(preset="facenet_smile")
    found = directions_of(vectors, preset)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], vectors.vectors[0])
    moved = edit_latents(["a", "b", "c"], world[0][:3], vectors, preset)
    strengths = np.arange(10) / 2
    expected = world[0][:3, None] + strengths[None, :, None] * vectors.vectors[0]
    np.testing.assert_array_equal(moved.latents, expected)
    assert not moved.stopped.any()


@pytest.mark.parametrize("method", ["auto", "mean", "partial", "lda"])
def test_strength_1_is_one_gap_and_held_attributes_stay(vectors, method):
    (move,) = directions_of(vectors, config(method=method, hold=("Male", "Young")))
    changes = score_changes(vectors, move)
    assert changes["Smiling"] == pytest.approx(1, abs=1e-6)
    assert (changes["Male"], changes["Young"]) == pytest.approx((0, 0), abs=1e-9)
    assert abs(changes["Twin"]) > 1e-3


def test_with_auto_the_held_move_is_the_smallest(vectors):
    inverse = np.linalg.inv(vectors.directions.latent_covariance)
    lengths = {}
    for method in ("auto", "partial", "lda"):
        (move,) = directions_of(vectors, config(method=method, hold=("Male",)))
        lengths[method] = move @ inverse @ move
    assert lengths["auto"] < min(lengths["partial"], lengths["lda"])


def test_several_attributes_each_change_by_their_gap(vectors):
    moved = directions_of(vectors, config(attribute=("Smiling", "Twin"), hold=("Male",)))
    changes = score_changes(vectors, moved.sum(axis=0))
    assert [changes[name] for name in ("Smiling", "Twin", "Male")] == pytest.approx([1, 1, 0])


def test_strengths_are_multiples_and_nothing_is_stopped_near_the_face(world, vectors):
    found = edited(world, strengths=(-0.5, 0.0, 0.5), damp=False)
    step = directions_of(vectors, config())[0]
    expected = world[0][:3, None] + np.array([-0.5, 0, 0.5])[None, :, None] * step
    np.testing.assert_allclose(found, expected)


def test_far_moves_are_stopped_unless_they_may_go(world, vectors):
    names, latents = ["a", "b", "c"], world[0][:3]
    far = config(strengths=(0.0, 50.0))
    found = edit_latents(names, latents, vectors, far)
    np.testing.assert_array_equal(found.stopped, [[False, True]] * 3)
    free = edit_latents(names, latents, vectors, config(strengths=(0.0, 50.0), damp=False))
    assert not free.stopped.any()
    assert np.abs(free.latents[:, 1]).max() > 5 * np.abs(found.latents[:, 1]).max()


@pytest.mark.parametrize("method", ["auto", "mean"])
def test_every_face_comes_to_the_level(world, vectors, method):
    asked = {"attribute": ("Smiling", "Young"), "hold": ("Male",), "level": (0.0, 1.0)}
    found = edited(world, method=method, damp=False, **asked)
    scorers = vectors.directions.scorers()
    for face, start in zip(found, world[0][:3], strict=True):
        levels = scorers.levels(face)
        np.testing.assert_allclose(levels[:, [0, 2]], [[0, 0], [1, 1]], atol=1e-6)
        np.testing.assert_allclose(levels[:, 1], scorers.levels(start[None])[0, 1], atol=1e-9)


def test_a_face_gives_its_levels_to_others(uri, world, vectors):
    editing = config(
        transfer="0007.jpg", attribute=("Smiling", "Male"), image_ids=("0001.jpg", "0002.jpg"),
        damp=False,
    )  # fmt: skip
    found = edit_stored(uri, vectors, editing)
    assert found.columns == (0.0, 1.0)
    np.testing.assert_allclose(found.latents[:, 0], world[0][1:3], atol=1e-9)
    scorers = vectors.directions.scorers([0, 1])
    source = scorers.levels(world[0][7:8])
    for latent in found.latents[:, 1]:
        np.testing.assert_allclose(scorers.levels(latent[None]), source)


@pytest.mark.parametrize("interpolation", ["linear", "spherical"])
def test_what_lies_between_two_faces(uri, world, vectors, interpolation):
    editing = config(interpolate=("0003.jpg", "0001.jpg"), steps=5, interpolation=interpolation)
    found = edit_stored(uri, vectors, editing)
    assert found.columns == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert found.latents.shape == (1, 5, LATENT)
    np.testing.assert_allclose(found.latents[0, [0, -1]], world[0][[3, 1]])
    middle = (world[0][3] + world[0][1]) / 2
    assert np.allclose(found.latents[0, 2], middle) == (interpolation == "linear")


def test_random_faces_are_of_the_seed(uri, vectors):
    found = edit_stored(uri, vectors, config(random=12, seed=3))
    assert found.latents.shape == (12, 1, LATENT)
    assert (len(found.names), found.rows_side_by_side) == (12, 8)
    again = edit_stored(uri, vectors, config(random=5, seed=3))
    np.testing.assert_allclose(again.latents, found.latents[:5])


def test_components_start_from_the_mean_face_or_from_a_named_one(uri, world, vectors):
    found = edit_stored(uri, vectors, config(components=2))
    assert found.latents.shape == (2, 7, LATENT)
    np.testing.assert_allclose(found.latents[:, 3], np.stack([vectors.directions.latent_mean] * 2))
    named = edit_stored(uri, vectors, config(components=2, image_ids=("0009.jpg",)))
    np.testing.assert_allclose(named.latents[0, 3], world[0][9])
    np.testing.assert_allclose(
        np.diff(named.latents, axis=1), np.diff(found.latents, axis=1), atol=1e-9
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "partial"},
        {"method": "lda"},
        {"hold": ["Male"]},
        {"method": "mean", "hold": ["Male"]},
        {"level": [1]},
        {"transfer": "0001.jpg"},
        {"random": 2},
        {"components": 2},
        {"interpolate": ["0001.jpg", "0002.jpg"]},
    ],
)
def test_what_old_files_lack_is_one_line_that_says_how_to_get_it(uri, old, settings):
    with pytest.raises(UserError, match=r"derive the other directions .* with facevae vectors"):
        edit_stored(uri, old, config(**settings))


def test_old_files_are_edited_as_before(uri, old):
    found = edit_stored(uri, old, config(faces=2, strengths=(0.0, 100.0)))
    assert not found.stopped.any()
    linear = {"interpolate": ("0001.jpg", "0002.jpg"), "interpolation": "linear"}
    assert edit_stored(uri, old, config(**linear)).latents.shape == (1, 10, LATENT)


def test_holds_that_contradict_the_change_are_one_line():
    _, _, vectors = made(twin_of_male=True)
    for editing in (
        config(attribute=["Male"], hold=["Twin"]),
        config(attribute=["Male"], hold=["Twin"], method="partial"),
        config(hold=["Male", "Twin"]),
    ):
        with pytest.raises(UserError, match="Male and Twin are told by the same score"):
            directions_of(vectors, editing)


def test_an_unknown_or_rare_attribute_to_hold_is_one_line(vectors):
    with pytest.raises(UserError, match="did you mean Male"):
        directions_of(vectors, config(hold=["Mail"]))
    rare = dataclasses.replace(vectors, valid=np.array([True, False, True, True]))
    with pytest.raises(UserError, match=r"Male has no vector: \d+ images with it"):
        directions_of(rare, config(hold=["Male"]))


def test_an_attribute_without_a_partial_direction_moves_along_its_mean(vectors, capsys):
    partial = vectors.directions.partial.copy()
    partial[0] = np.nan
    directions = dataclasses.replace(vectors.directions, partial=partial)
    without = dataclasses.replace(vectors, directions=directions)
    found = directions_of(without, config(attribute=["Smiling", "Male"]))
    np.testing.assert_allclose(found, [vectors.vectors[0], partial[1]])
    assert not capsys.readouterr().err  # it is said once, before work begins
    check_edit(without, config(attribute=["Smiling", "Male"]))
    assert "Smiling has no partial direction" in capsys.readouterr().err
    with pytest.raises(UserError, match="Smiling has no partial direction"):
        directions_of(without, config(method="partial"))


@pytest.mark.parametrize("settings", [{"level": [1]}, {"transfer": "0001.jpg"}, {"random": 2}])
def test_what_vectors_lack_is_found_before_work_begins(old, settings):
    with pytest.raises(UserError, match="derive the other directions"):
        check_edit(old, config(**settings))
    with pytest.raises(UserError, match=r"say --editing\.interpolation linear"):
        check_edit(old, config(interpolate=("a", "b")))
    check_edit(old, config(interpolate=("a", "b"), interpolation="linear"))


def test_two_attributes_of_one_score_have_no_level_of_their_own():
    vectors = made(twin_of_male=True)[2]
    with pytest.raises(UserError, match="Male and Twin are told by the same score"):
        check_edit(vectors, config(attribute=["Male", "Twin"], level=[1], method="mean"))


def test_what_auto_comes_to_is_told(vectors, old):
    partial = vectors.directions.partial.copy()
    partial[0] = np.nan
    directions = dataclasses.replace(vectors.directions, partial=partial)
    without = dataclasses.replace(vectors, directions=directions)
    both = config(attribute=["Smiling", "Male"])
    assert methods_of(without, both) == {"Smiling": "mean", "Male": "partial"}
    assert methods_of(old, both) == {"Smiling": "mean", "Male": "mean"}
    assert methods_of(vectors, config(hold=["Male"])) == {"Smiling": "smallest move"}
    assert methods_of(vectors, config(method="lda")) == {"Smiling": "lda"}
