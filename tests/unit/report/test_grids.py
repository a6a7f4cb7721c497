"""Pixel positions of grids, and pictures that come back."""

import numpy as np
import pytest
from PIL import Image

from facevae.errors import UserError
from facevae.report import grids
from facevae.report.grids import image_grid, reconstruction_grid, save_or_warn, save_png


def _images(number, height=5, width=4, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(1, 256, (number, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("number", "columns", "size", "shape"),
    [(160, 20, 64, (539, 1343)), (128, 16, 64, (539, 1075)), (160, 20, 128, (1051, 2623))],
)
def test_grids_have_the_originals_size(number, columns, size, shape):
    grid = image_grid(np.zeros((number, size, size, 3), np.uint8), columns)
    assert grid.shape == (*shape, 3)


@pytest.mark.parametrize("number", [1, 3, 6, 7])
@pytest.mark.parametrize("border", [0, 1, 3])
def test_each_tile_is_at_its_place_and_the_rest_is_black(number, border):
    images, columns = _images(number), 3
    grid = image_grid(images, columns, border).copy()
    for index, image in enumerate(images):
        top = border + index // columns * (5 + border)
        left = border + index % columns * (4 + border)
        tile = grid[top : top + 5, left : left + 4]
        np.testing.assert_array_equal(tile, image)
        tile[:] = 0
    assert not grid.any()


def test_an_original_stands_above_its_reconstruction():
    originals, reconstructions = _images(5, seed=1), _images(5, seed=2)
    grid = reconstruction_grid(originals, reconstructions, columns=3)
    # pair 4 is in row 1, column 1; a pair is 10 pixels high
    top, left = 3 + 13, 3 + 7
    np.testing.assert_array_equal(grid[top : top + 5, left : left + 4], originals[4])
    np.testing.assert_array_equal(grid[top + 5 : top + 10, left : left + 4], reconstructions[4])
    assert reconstruction_grid(originals, reconstructions, columns=16).shape == (16, 38, 3)


@pytest.mark.parametrize("wrap", [lambda image: image, Image.fromarray])
def test_a_saved_picture_comes_back(tmp_path, wrap):
    image = _images(1, 9, 7)[0]
    save_png(wrap(image), tmp_path / "below" / "picture.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "below/picture.png")), image)
    assert len(list((tmp_path / "below").iterdir())) == 1


def test_a_file_in_the_way_is_a_users_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file is in the way"):
        save_png(_images(1)[0], tmp_path / "file" / "picture.png")


@pytest.mark.parametrize(("height", "width"), [(50, 40), (33, 64), (7, 7)])
def test_a_grid_of_many_tiles_is_no_larger_than_a_picture_may_be(monkeypatch, height, width):
    monkeypatch.setattr(grids, "MAX_PIXELS", 20_000)
    images = np.full((60, height, width, 3), 200, np.uint8)
    images[0] = 100
    grid = image_grid(images, 10)
    assert grid.shape[0] * grid.shape[1] < 1.3 * 20_000  # the border goes around once more
    assert set(np.unique(grid)) == {0, 100, 200}, "every tile is whole, and its own"
    pair = reconstruction_grid(images, images, 10)
    assert pair.shape[0] * pair.shape[1] < 1.3 * 20_000


def test_a_grid_that_fits_keeps_its_pixels(monkeypatch):
    images = _images(4)
    monkeypatch.setattr(grids, "MAX_PIXELS", 4 * 8 * 7)
    assert image_grid(images, 2).shape == (19, 17, 3)


@pytest.mark.parametrize("error", [ValueError("no\nroom"), MemoryError(), RuntimeError("font")])
def test_a_picture_that_cannot_be_drawn_is_a_warning(tmp_path, capsys, error):
    def draw():
        raise error

    assert save_or_warn(draw, str(tmp_path / "a.png")) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: the picture {tmp_path}/a.png is missing (")
    assert type(error).__name__ in line
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_saved_is_a_warning(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    picture = Image.fromarray(_images(1)[0])
    assert save_or_warn(lambda: picture, str(tmp_path / "file/a.png")) is None
    assert "a file is in the way" in capsys.readouterr().err
    assert save_or_warn(lambda: picture, str(tmp_path / "a.png")) is picture
    assert (tmp_path / "a.png").exists()
