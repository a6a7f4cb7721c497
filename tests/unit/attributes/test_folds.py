"""Folds: the same bits for any batches, people in one fold, and what each split is for."""

import numpy as np
import pytest

from facevae.attributes import folds
from facevae.attributes.folds import fold_of, fold_statistics
from facevae.attributes.statistics import AttributeStatistics
from facevae.attributes.vectors import LatentBatch

IMAGES, LATENT, ATTRIBUTES = 1000, 5, 3


@pytest.fixture
def images() -> LatentBatch:
    random = np.random.default_rng(0)
    labels = random.choice(np.array([-1, 0, 1], np.int8), (IMAGES, ATTRIBUTES))
    splits = random.choice(["train", "val", "test"], IMAGES, p=[0.7, 0.2, 0.1]).tolist()
    latents = random.normal(size=(IMAGES, LATENT)).astype(np.float32)
    return LatentBatch([f"{i}.jpg" for i in range(IMAGES)], splits, latents, labels)


def rows_of(images: LatentBatch, rows) -> LatentBatch:
    rows = np.arange(len(images.image_id))[rows].tolist()
    return LatentBatch(
        [images.image_id[row] for row in rows],
        [images.split[row] for row in rows],
        images.latents[rows],
        images.attributes[rows],
        None if images.identities is None else images.identities[rows],
    )


def counted(images: LatentBatch, size: int = IMAGES):
    """The statistics of images that come in batches."""
    batches = (rows_of(images, slice(i, i + size)) for i in range(0, len(images.image_id), size))
    return fold_statistics(batches, LATENT, ATTRIBUTES, 4, class_scatter=True)


def bits(found) -> list[bytes]:
    parts = [*found.train, found.validation]
    return [array.tobytes() for part in parts for array in part.to_arrays().values()]


def test_batches_of_any_size_give_the_same_bits(images, monkeypatch):
    monkeypatch.setattr(folds, "BLOCK", 64)
    expected = bits(counted(images))
    assert all(bits(counted(images, size)) == expected for size in (1, 63, 64, 65, 333))


def test_each_split_is_for_its_own_and_each_fold_has_its_images(images):
    found = counted(images)
    split = np.array(images.split)
    fold = np.array([fold_of(name, 4) for name in images.image_id])
    for number, part in enumerate(found.train):
        rows = (split == "train") & (fold == number)
        assert part.count == rows.sum() > 100
        expected = AttributeStatistics.of_batch(
            images.latents[rows], np.zeros_like(images.latents[rows]), images.attributes[rows], True
        )
        np.testing.assert_allclose(part.scatter, expected.scatter)
        np.testing.assert_array_equal(part.positive_negative, expected.positive_negative)
    assert found.validation.count == (split == "val").sum()


def test_images_of_a_file_without_splits_are_all_for_training(images):
    found = counted(images._replace(split=[""] * IMAGES))
    assert sum(part.count for part in found.train) == IMAGES
    assert found.validation.count == 0


def test_a_person_is_in_one_fold_and_an_unknown_one_goes_by_the_image(images):
    people = np.arange(IMAGES) // 10
    people[-100:] = -1
    found = counted(images._replace(identities=people, split=["train"] * IMAGES))
    keys = [f"person {person}" if person >= 0 else f"{i}.jpg" for i, person in enumerate(people)]
    expected = np.bincount([fold_of(key, 4) for key in keys], minlength=4)
    assert [part.count for part in found.train] == expected.tolist()


def test_withdrawn_rows_leave_the_bits_of_a_pass_without_them(images, monkeypatch):
    monkeypatch.setattr(folds, "BLOCK", 64)
    kept = np.random.default_rng(1).random(IMAGES) > 0.1
    assert bits(counted(rows_of(images, kept), 10)) == bits(counted(rows_of(images, kept), 200))
    without_test = np.array(images.split) != "test"
    assert bits(counted(rows_of(images, without_test))) == bits(counted(images))
