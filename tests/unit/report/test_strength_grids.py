"""The original's layout to the pixel, and the labelled version around it."""

import numpy as np
import pytest

from facevae.report import grids
from facevae.report.strength_grids import labelled_strength_grid, strength_grid


def _faces(faces, strengths, size):
    """Each tile is filled with its own colour (face + 1, strength + 1, 255)."""
    tiles = np.full((faces, strengths, size, size, 3), 255, np.uint8)
    tiles[..., 0] = np.arange(1, faces + 1)[:, None, None, None]
    tiles[..., 1] = np.arange(1, strengths + 1)[:, None, None]
    return tiles


@pytest.mark.parametrize(("size", "shape"), [(64, (539, 1343, 3)), (128, (1051, 2623, 3))])
def test_sixteen_faces_have_the_originals_layout(size, shape):
    grid = strength_grid(_faces(16, 10, size))
    assert grid.shape == shape
    for face in range(16):
        for strength in range(10):
            top = 3 + face // 2 * (size + 3)
            left = 3 + (face % 2 * 10 + strength) * (size + 3)
            tile = grid[top : top + size, left : left + size]
            assert (tile == [face + 1, strength + 1, 255]).all()
            assert not grid[top - 3 : top].any()
            assert not grid[:, left - 3 : left].any()


@pytest.mark.parametrize(
    ("faces", "per_row", "shape"), [(3, 2, (2, 8)), (3, 1, (3, 4)), (1, 2, (1, 8))]
)
def test_other_numbers_of_faces(faces, per_row, shape):
    grid = strength_grid(_faces(faces, 4, 8), per_row)
    assert grid.shape == (shape[0] * 11 + 3, shape[1] * 11 + 3, 3)


@pytest.mark.parametrize(("faces", "per_row"), [(5, 2), (3, 1), (1, 2)])
def test_the_labelled_grid_holds_every_strip_and_has_room_for_the_names(faces, per_row):
    tiles, strengths = _faces(faces, 4, 16), [0, 0.5, 1, 1.5]
    page = labelled_strength_grid(tiles, strengths, [f"{i}.jpg" for i in range(faces)], per_row)
    pixels = np.asarray(page)
    lefts = []
    for face in range(faces):
        rows, columns = np.nonzero((pixels == [face + 1, 1, 255]).all(axis=2))
        assert len(rows) == 16 * 16
        lefts.append(columns.min())
    assert lefts == [lefts[i % per_row] for i in range(faces)]
    longer = ["a name much longer than the others.jpg"] * faces
    assert labelled_strength_grid(tiles, strengths, longer, per_row).width > page.width


def test_labels_stay_beside_faces_that_were_shrunk(monkeypatch):
    tiles, strengths, names = _faces(4, 4, 32), [0, 0.5, 1, 1.5], [f"{i}.jpg" for i in range(4)]
    whole = labelled_strength_grid(tiles, strengths, names)
    monkeypatch.setattr(grids, "MAX_PIXELS", 6000)
    assert strength_grid(tiles).shape == (2 * 19 + 3, 8 * 19 + 3, 3)
    page = labelled_strength_grid(tiles, strengths, names)
    assert page.size < whole.size
    small = labelled_strength_grid(_faces(4, 4, 16), strengths, names)
    assert page.tobytes() == small.tobytes()
