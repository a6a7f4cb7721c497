"""A sheet of small pictures with their names."""

import numpy as np
import pytest
from PIL import Image

from facevae.report.sheets import THUMBNAIL, named_sheet


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (8, 1, 8), (9, 2, 8)])
def test_each_picture_is_on_the_sheet(count, rows, columns):
    colours = [(250, i, 255 - i) for i in range(count)]
    pictures = {
        f"folder/{'long' * 10}/{i}.jpg": Image.new("RGB", (THUMBNAIL, 20 + i), colour)
        for i, colour in enumerate(colours)
    }
    sheet = named_sheet(pictures, "no face found")
    assert sheet.height > rows * THUMBNAIL
    assert sheet.width > columns * THUMBNAIL
    pixels = np.asarray(sheet).reshape(-1, 3)
    for i, colour in enumerate(colours):
        assert (pixels == colour).all(axis=1).sum() == THUMBNAIL * (20 + i)


def test_letters_that_the_font_has_not_and_long_names_fit():
    sheet = named_sheet({"写真/" + "x" * 500 + "é.jpg": Image.new("RGB", (40, 128))}, "t")
    assert sheet.width < 2 * THUMBNAIL + 100
