"""Pictures of edited faces: one strip per face, the strength growing to the right.

Legend: F faces, K strengths, S image size in pixels.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from facevae.report.grids import image_grid, shrink_to_fit

_INK = "#24292f"
_SPACE = 10
"""pixels between text and faces"""


def strength_grid(
    faces: UInt8[np.ndarray, "F K S S 3"], faces_per_row: int = 2
) -> UInt8[np.ndarray, "h w 3"]:
    """All faces at all strengths, in the original's layout: row by row, black borders of 3 pixels.

    16 faces at 10 strengths make 20 x 8 tiles: 1343 x 539 pixels at S = 64, 2623 x 1051 at 128.
    """
    number, strengths = faces.shape[:2]
    return image_grid(
        faces.reshape(number * strengths, *faces.shape[2:]), faces_per_row * strengths
    )


def labelled_strength_grid(
    faces: UInt8[np.ndarray, "F K S S 3"],
    strengths: Sequence[float | int],
    names: Sequence[str],
    faces_per_row: int = 2,
) -> Image.Image:
    """The strength grid for people: strengths above the columns, image names beside the strips.

    Tiles are those of `strength_grid`; the faces of a column of strips stand in one block, with
    their names to its left.
    """
    assert faces.shape[:2] == (len(names), len(strengths)), "one name a face, one strength a tile"
    tiles = shrink_to_fit(faces.reshape(-1, *faces.shape[2:]))
    faces = tiles.reshape(*faces.shape[:2], *tiles.shape[1:])
    font = ImageFont.load_default(size=max(11, faces.shape[2] // 6))
    columns = range(min(faces_per_row, len(names)))
    blocks = [
        _block(faces[c::faces_per_row], strengths, names[c::faces_per_row], font) for c in columns
    ]
    width = sum(block.width for block in blocks) + _SPACE
    page = Image.new("RGB", (width, max(block.height for block in blocks) + _SPACE), "white")
    left = 0
    for block in blocks:
        page.paste(block, (left, 0))
        left += block.width
    return page


def _block(
    faces: UInt8[np.ndarray, "F K S S 3"],
    strengths: Sequence[float | int],
    names: Sequence[str],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> Image.Image:
    """One column of strips with its labels, on white."""
    grid = Image.fromarray(strength_grid(faces, faces_per_row=1))
    left = round(max(font.getlength(name) for name in names)) + 2 * _SPACE
    top = round(font.getbbox("0")[3]) + 2 * _SPACE
    step = faces.shape[2] + 3
    page = Image.new("RGB", (left + grid.width, top + grid.height), "white")
    page.paste(grid, (left, top))
    draw = ImageDraw.Draw(page)
    for column, strength in enumerate(strengths):
        middle = left + 3 + column * step + faces.shape[2] / 2
        draw.text((middle, top / 2), f"{strength:g}", fill=_INK, font=font, anchor="mm")
    for row, name in enumerate(names):
        middle = top + 3 + row * step + faces.shape[2] / 2
        draw.text((left - _SPACE, middle), name, fill=_INK, font=font, anchor="rm")
    return page
