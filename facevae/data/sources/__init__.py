"""Raw faces: what a source of them is; one file per kind of source.

Legend: N images in a data set, A attributes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int8
from PIL import Image

from facevae.config import Split


@dataclass(frozen=True, eq=False)
class FaceListing:
    """The faces of a source, as columns: what is known of them without reading a pixel."""

    image_ids: list[str]
    splits: list[Split]
    attributes: Int8[np.ndarray, "N A"]


class FaceSource(Protocol):
    """Where faces come from. A pickle holds settings only, so a Ray task gets a few bytes."""

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """The names of the A attributes."""

    @property
    def faces(self) -> FaceListing:
        """The N usable faces, in a stable order."""

    @property
    def splits(self) -> list[Split]:
        """The split of each usable face, for those who need no more."""

    @property
    def unlisted(self) -> list[tuple[str, str]]:
        """(id, reason) of every image or label row that cannot be a face, known before reading."""

    def load(self, image_id: str) -> Image.Image:
        """The RGB picture of a listed face; raises BadImageError or OSError if it has none."""

    def sources_of(self, image_ids: Sequence[str]) -> list[str] | None:
        """The name of the source of each face; none: there is but this one."""

    def describe(self) -> dict[str, Any]:
        """What a manifest says about this source, as JSON values."""


def hash_split(key: str) -> Split:
    """Returns the split of a person or image: 80/10/10 by SHA-256, the same on every machine."""
    tenth = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 10
    return "train" if tenth < 8 else "val" if tenth == 8 else "test"
