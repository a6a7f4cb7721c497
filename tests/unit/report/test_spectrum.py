"""Planted meshes and noise are found with their strength."""

import numpy as np
import pytest

from facevae.report.spectrum import high_frequencies, mesh

SIZE = 64


@pytest.fixture
def faces() -> np.ndarray:
    """Smooth pictures with noise of a standard deviation of 4."""
    random = np.random.default_rng(0)
    row, column = np.mgrid[:SIZE, :SIZE] / SIZE
    smooth = 120 + 60 * np.sin(5 * row) * np.cos(4 * column)
    noise = random.normal(0, 4, (20, SIZE, SIZE, 3))
    return np.clip(smooth[None, :, :, None] + noise, 0, 255).astype(np.uint8)


def with_mesh(faces: np.ndarray, period: int, height: int) -> np.ndarray:
    row, column = np.mgrid[:SIZE, :SIZE]
    is_line = (row % period == 0) & (column % period == 0)
    return np.clip(faces + height * is_line[None, :, :, None], 0, 255).astype(np.uint8)


def test_faces_without_a_mesh_have_none(faces):
    assert mesh(faces) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("period", [2, 4])
def test_a_mesh_stands_out_the_more_the_higher_it_is(faces, period):
    low, high = (mesh(with_mesh(faces, period, height)) for height in (8, 24))
    assert 1.3 < low < high
    assert high > 5


@pytest.mark.parametrize("period", [3, 5])
def test_patterns_of_other_periods_are_no_mesh(faces, period):
    assert mesh(with_mesh(faces, period, 24)) < 1.5


def test_noise_is_found_with_its_power(faces):
    """Half of the frequencies along either axis are fine: three quarters of white noise."""
    assert high_frequencies(faces) == pytest.approx(0.75 * 16, rel=0.15)
    assert high_frequencies(np.full((2, SIZE, SIZE, 3), 100, np.uint8)) == 0
