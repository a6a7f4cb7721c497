"""A folder of photographs without labels, as they are before alignment."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from facevae.data.images import decode_image
from facevae.data.sources.folder import list_images, list_unread


@dataclass(frozen=True)
class Photographs:
    """The photographs of a folder and of those below it; an id is a file's path."""

    images: str

    def listing(self) -> dict[str, str]:
        """Every image file, sorted by path, and why it is not read; empty: it is.

        Raises:
            UserError: see list_images.
        """
        listed = dict.fromkeys(list_images(self.images), "") | dict(list_unread(self.images))
        return dict(sorted(listed.items()))

    def load(self, image_id: str) -> Image.Image:
        """The RGB picture in a file, upright; raises BadImageError or OSError."""
        return decode_image((Path(self.images) / image_id).read_bytes())

    def describe(self) -> dict[str, Any]:
        """The settings, as JSON values."""
        return {"kind": "photographs", "images": self.images}
