"""Pictures that follow each other in one file."""

import io
from collections.abc import Sequence
from typing import Literal

from PIL import Image

from facevae.runs.storage import atomic_file

LONGEST_SIDE = 640
"""pixels of a moving picture: a GIF of a whole photo would be tens of megabytes"""
STILL, STEP = 1200, 250
"""milliseconds of the first and the last picture, and of those between"""


def shrunk(frame: Image.Image) -> Image.Image:
    """An RGB picture as small as a moving one is."""
    scale = min(1.0, LONGEST_SIDE / max(frame.size))
    width, height = (max(1, round(side * scale)) for side in frame.size)
    return frame.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def save_animation(
    frames: Sequence[Image.Image], uri: str, file_format: Literal["gif", "webp"]
) -> None:
    """Write RGB pictures of one size, shown one after the other without end.

    Raises:
        UserError: no permission, or the disk is full.
    """
    durations = [STEP] * len(frames)
    durations[0] = durations[-1] = STILL
    content = io.BytesIO()
    frames[0].save(
        content,
        file_format.upper(),
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=0,
    )
    with atomic_file(uri) as path:
        path.write_bytes(content.getbuffer())
