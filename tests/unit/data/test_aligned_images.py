"""Image files to aligned faces: in order, a few in memory, with a reason for each that is none."""

import threading

import numpy as np
import pytest
from PIL import Image

from facevae.config import AlignmentConfig
from facevae.data.aligned_images import WINDOW_PIXELS, Unread, read_aligned
from facevae.data.detector import Detections
from facevae.data.images import BadImageError, SmallImageError
from tests.photographs import background

ERRORS = {
    "small": SmallImageError("too small: 3x3"),
    "corrupt": BadImageError("truncated"),
    "gone": FileNotFoundError("no such file"),
}


class Marker:
    """Finds one face, as wide as an image's number: the red of its first pixel."""

    def detect(self, images):
        sides = [image.getpixel((0, 0))[0] for image in images]
        return [
            Detections(
                np.array([[40.0, 40.0, 40.0 + side, 40.0 + side]]),
                np.ones(1),
                np.zeros((1, 5, 2), np.float32),
            )
            for side in sides
        ]


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_results_come_in_order_with_the_reasons(threads):
    ids = [*map(str, range(20, 40)), *ERRORS, *map(str, range(40, 50))]

    def load(image_id):
        if image_id in ERRORS:
            raise ERRORS[image_id]
        return Image.new("RGB", (100 + int(image_id) % 3, 100), (int(image_id), 0, 0))

    config = AlignmentConfig(margin=0)
    found = list(read_aligned(load, ids, Marker(), config, threads))
    assert len(found) == len(ids)
    for image_id, each in zip(ids, found, strict=True):
        if image_id in ERRORS:
            assert isinstance(each, Unread)
            assert each.status == ("too_small" if image_id == "small" else "unreadable")
            assert each.reason == str(ERRORS[image_id])
        else:
            assert each[0].box[2] - each[0].box[0] == int(image_id)


@pytest.mark.parametrize("threads", [0, 3])
def test_few_images_are_in_memory(threads):
    side, alive, most, lock = 1024, 0, 0, threading.Lock()

    class Counted(Image.Image):
        def __del__(self):
            nonlocal alive
            with lock:
                alive -= 1

    def load(_):
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        image = background(side, side)
        image.__class__ = Counted
        return image

    for _ in read_aligned(load, list(map(str, range(60))), Marker(), AlignmentConfig(), threads):
        pass
    # A window that is searched, the one that is filled, and what threads read ahead.
    assert most <= 2 * WINDOW_PIXELS // side**2 + threads + 1


def test_an_error_that_may_pass_is_raised():
    def load(_):
        raise OSError("stale file handle")

    with pytest.raises(OSError, match="stale"):
        list(read_aligned(load, ["a"], Marker(), AlignmentConfig()))
