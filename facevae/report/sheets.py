"""A sheet of small pictures with their names."""

import math
from collections.abc import Mapping

from PIL import Image, ImageDraw, ImageFont

THUMBNAIL = 128
"""pixels of the longer side of a picture, at most"""
_COLUMNS, _SPACE, _LINE = 8, 8, 14
_INK = "#24292f"


def named_sheet(pictures: Mapping[str, Image.Image], title: str) -> Image.Image:
    """RGB pictures of at most `THUMBNAIL` pixels in rows of eight, each above the end of its name.

    Args:
        pictures: by name.
        title: the line above them.
    """
    font = ImageFont.load_default(size=11)
    columns = min(_COLUMNS, max(len(pictures), 1))
    width, height = THUMBNAIL + _SPACE, THUMBNAIL + _SPACE + _LINE
    rows = math.ceil(len(pictures) / _COLUMNS)
    top = _LINE + 2 * _SPACE
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    title_width = math.ceil(draw.textlength(title, font)) + 2 * _SPACE
    size = (max(columns * width + _SPACE, title_width), top + rows * height)
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    draw.text((_SPACE, _SPACE), title, _INK, font)
    for i, (name, picture) in enumerate(pictures.items()):
        left, upper = _SPACE + i % _COLUMNS * width, top + i // _COLUMNS * height
        page.paste(picture, (left, upper + (THUMBNAIL - picture.height)))
        draw.text((left, upper + THUMBNAIL + 1), _end_of(name, draw, font), _INK, font)
    return page


def _end_of(
    name: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> str:
    """The longest end of a name that fits below a picture; the letters of the font only."""
    plain = name.encode("latin-1", "replace").decode("latin-1")
    if draw.textlength(plain, font) <= THUMBNAIL:
        return plain
    while plain and draw.textlength(f"...{plain}", font) > THUMBNAIL:
        plain = plain[1:]
    return f"...{plain}"
