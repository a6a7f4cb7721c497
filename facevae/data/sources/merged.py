"""Several sources of faces as one: ids with their source's name, and all their attributes."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from facevae.config import Split
from facevae.data.sources import FaceListing, FaceSource


@dataclass(frozen=True)
class MergedSource:
    """The faces of several sources, one source after the other.

    An id is the source's name, a slash and the id there. The attributes are those of all sources;
    those that a source does not have are unknown (0) of its faces.
    """

    sources: dict[str, FaceSource]
    """by name, without a slash"""

    @cached_property
    def attribute_names(self) -> tuple[str, ...]:
        """The names of the A attributes, in the order in which the sources have them."""
        named = (name for source in self.sources.values() for name in source.attribute_names)
        return tuple(dict.fromkeys(named))

    @cached_property
    def faces(self) -> FaceListing:
        """The faces of each source, in its order."""
        listings = {name: source.faces for name, source in self.sources.items()}
        count = sum(len(listing.image_ids) for listing in listings.values())
        attributes = np.zeros((count, len(self.attribute_names)), np.int8)
        start = 0
        for name, listing in listings.items():
            stop = start + len(listing.image_ids)
            columns = [self.attribute_names.index(a) for a in self.sources[name].attribute_names]
            attributes[start:stop, columns] = listing.attributes
            start = stop
        return FaceListing(
            [f"{name}/{i}" for name, listing in listings.items() for i in listing.image_ids],
            [split for listing in listings.values() for split in listing.splits],
            attributes,
        )

    @property
    def splits(self) -> list[Split]:
        """The split of each face."""
        return self.faces.splits

    @property
    def unlisted(self) -> list[tuple[str, str]]:
        """(id, reason) of all sources."""
        return [
            (f"{name}/{image_id}", reason)
            for name, source in self.sources.items()
            for image_id, reason in source.unlisted
        ]

    def load(self, image_id: str) -> Image.Image:
        """The RGB picture of a face; raises BadImageError or OSError."""
        name, _, rest = image_id.partition("/")
        return self.sources[name].load(rest)

    def sources_of(self, image_ids: Sequence[str]) -> list[str]:
        """The name of the source of each face, with which its id begins."""
        return [image_id.partition("/")[0] for image_id in image_ids]

    def describe(self) -> dict[str, Any]:
        """What each source says of itself, by name."""
        sources = {name: source.describe() for name, source in self.sources.items()}
        return {"kind": "merged", "sources": sources}

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds: the sources, not what was read."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
