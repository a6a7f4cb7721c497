"""How faces lie in the images of a source, so that a photograph can be cut out alike later."""

import contextlib

from facevae.config import CropBox
from facevae.config.alignment import Framing
from facevae.data.align import CELEBA_SIZE
from facevae.data.images import BadImageError
from facevae.data.sources import FaceSource

FIRST_IMAGES = 20
"""of a source, one of which can be read"""


def framing_of(source: FaceSource, crop: str | CropBox) -> Framing | None:
    """The framing of the images that `crop` cuts out of a source's, as its first one shows.

    None where that cannot be told: of a box of the user's, and of images that cannot be read.
    """
    if isinstance(crop, tuple):
        return None
    for image_id in source.faces.image_ids[:FIRST_IMAGES]:
        with contextlib.suppress(BadImageError, OSError):
            is_celeba = source.load(image_id).size == CELEBA_SIZE
            return "celeba" if crop == "celeba" or (crop == "auto" and is_celeba) else "box"
    return None
