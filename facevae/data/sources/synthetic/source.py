"""Synthetic faces as a source of a data set."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from facevae.config import Split
from facevae.data.sources import FaceListing, hash_split
from facevae.data.sources.synthetic.drawing import synthetic_face
from facevae.data.sources.synthetic.labels import ATTRIBUTE_NAMES, sample_attributes


@dataclass(frozen=True)
class SyntheticSource:
    """`count` synthetic faces of set `seed`, called as CelebA's: "000001.jpg", "000002.jpg", ..."""

    count: int
    seed: int

    attribute_names = ATTRIBUTE_NAMES

    @cached_property
    def faces(self) -> FaceListing:
        """All faces; no picture is drawn for it."""
        # The labels are the first thing that synthetic_face takes from this generator.
        labels = [
            sample_attributes(np.random.default_rng([self.seed, index]))
            for index in range(self.count)
        ]
        return FaceListing(self._image_ids, self.splits, np.stack(labels))

    @property
    def splits(self) -> list[Split]:
        """Each face is a person, so ids split 80/10/10."""
        return [hash_split(image_id) for image_id in self._image_ids]

    @property
    def _image_ids(self) -> list[str]:
        return [f"{number:06d}.jpg" for number in range(1, self.count + 1)]

    @property
    def unlisted(self) -> list[tuple[str, str]]:
        """Nothing: every face has its labels."""
        return []

    def load(self, image_id: str) -> Image.Image:
        """Draws a face."""
        return synthetic_face(self.seed, int(image_id.removesuffix(".jpg")) - 1)[0]

    def sources_of(self, image_ids: Sequence[str]) -> None:
        """None: there is but this source."""

    def describe(self) -> dict[str, Any]:
        """The settings."""
        return {"kind": "drawn", **asdict(self)}

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds: the settings, not the listing."""
        return asdict(self)
