"""Photographs without labels, as they are before alignment."""

from dataclasses import dataclass
from typing import Any

from PIL import Image

from facevae.data.images import decode_image, not_read
from facevae.data.sources.image_files import ImageFiles, kind_of_image


@dataclass(frozen=True)
class Photographs:
    """The photographs of a folder, an archive or Parquet files."""

    files: ImageFiles

    def listing(self) -> dict[str, str]:
        """Every image file, sorted by path, and why it is not read; empty: it is.

        Raises:
            UserError: see ImageFiles.names.
        """
        unread = {path: not_read(kind_of_image(path)) for path in self.files.unread()}
        return dict(sorted((dict.fromkeys(self.files.names(), "") | unread).items()))

    def load(self, image_id: str) -> Image.Image:
        """The RGB picture in a file, upright; raises BadImageError or OSError."""
        return decode_image(self.files.read(image_id))

    def describe(self) -> dict[str, Any]:
        """Where they are, and what is known of their content, as JSON values."""
        return {"kind": "photographs", "images": self.files.uri, **self.files.describe()}
