"""Image files to aligned faces, a few at a time: what `align` and `shards` have in common."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from PIL import Image

from facevae.config import AlignmentConfig
from facevae.data.align import Aligned, Status, align_images
from facevae.data.detector import FaceDetector
from facevae.data.images import BadImageError, SmallImageError

NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
"""what is wrong with one file; other errors of a disk may pass, and its part is tried again"""
WINDOW_PIXELS = 1 << 23
"""of decoded images that wait for each other: those of one size are searched together"""
REASONS: dict[Status, str] = {"ok": "", "no_face": "no face", "too_small": "too small for a face"}
"""of a photograph that was read, by status"""


class Unread(NamedTuple):
    """Why there is no picture in a file."""

    status: Status
    reason: str


def read_aligned(
    load: Callable[[str], Image.Image],
    image_ids: Sequence[str],
    detector: FaceDetector,
    config: AlignmentConfig,
    threads: int = 0,
) -> Iterator[list[Aligned] | Unread]:
    """The faces of each image as `align_images` returns them, in order, or why it is not read.

    However many images there are, a few are in memory.

    Args:
        load: reads and decodes one.
        image_ids: which.
        detector: finds faces.
        config: of alignment.
        threads: how many images are decoded while others are searched; 0: none.
    """
    window: list[Image.Image | Unread] = []
    pixels = 0
    for read in _read_ahead(load, image_ids, threads):
        window.append(read)
        pixels += 0 if isinstance(read, Unread) else read.width * read.height
        if pixels >= WINDOW_PIXELS:
            yield from _align_window(window, detector, config)
            window, pixels = [], 0
    yield from _align_window(window, detector, config)


def _align_window(
    window: Sequence[Image.Image | Unread], detector: FaceDetector, config: AlignmentConfig
) -> Iterator[list[Aligned] | Unread]:
    images = [read for read in window if not isinstance(read, Unread)]
    aligned = iter(align_images(images, detector, config))
    return (read if isinstance(read, Unread) else next(aligned) for read in window)


def _read_ahead(
    load: Callable[[str], Image.Image], image_ids: Sequence[str], threads: int
) -> Iterator[Image.Image | Unread]:
    if not threads:
        yield from (read_image(load, image_id) for image_id in image_ids)
        return
    begun: deque[Future[Image.Image | Unread]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for image_id in image_ids:
            begun.append(pool.submit(read_image, load, image_id))
            if len(begun) > threads:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def read_image(load: Callable[[str], Image.Image], image_id: str) -> Image.Image | Unread:
    """The picture in a file, or why there is none."""
    try:
        return load(image_id)
    except SmallImageError as error:
        return Unread("too_small", str(error))
    except BadImageError as error:
        return Unread("unreadable", str(error))
    except NO_FILE as error:
        return Unread("unreadable", str(error))
