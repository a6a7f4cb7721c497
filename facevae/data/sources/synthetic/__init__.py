"""Drawn faces: synthetic portraits in CelebA's layout whose 40 attributes are known truth.

Face i of set `seed` is a pure function of (seed, i), so any range can be drawn anywhere. A label
is what is drawn; nothing is labelled that a hat or hair hides. "Attractive" is an annotators'
opinion in CelebA; here it is a neutral drawing convention: symmetric brows and mouth, clear skin
without specks, and sharper, slightly larger eyes with a stronger glint.

attributes.py samples labels, portrait.py turns them into numbers, canvas.py paints,
body.py, features.py and hair.py draw the parts, drawing.py orders them, celeba_layout.py
writes files.
"""

from facevae.data.sources.synthetic.canvas import IMAGE_HEIGHT, IMAGE_WIDTH
from facevae.data.sources.synthetic.celeba_layout import encode_jpeg, write_celeba_layout
from facevae.data.sources.synthetic.drawing import draw_face, drawn_attributes, synthetic_face
from facevae.data.sources.synthetic.labels import (
    ATTRIBUTE_NAMES,
    BEARD_STYLES,
    EXCLUSIVE_GROUPS,
    sample_attributes,
    with_attribute,
)

__all__ = [
    "ATTRIBUTE_NAMES",
    "BEARD_STYLES",
    "EXCLUSIVE_GROUPS",
    "IMAGE_HEIGHT",
    "IMAGE_WIDTH",
    "draw_face",
    "drawn_attributes",
    "encode_jpeg",
    "sample_attributes",
    "synthetic_face",
    "with_attribute",
    "write_celeba_layout",
]
