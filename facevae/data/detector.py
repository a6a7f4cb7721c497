"""Faces in photographs: boxes, scores and landmarks, by MTCNN (Zhang et al. 2016, 1604.02878).

Legend: F faces in an image. Coordinates are in pixels of the image, x before y.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32
from PIL import Image

from facevae.config import AlignmentConfig

MAX_BATCH_PIXELS = 1 << 21
"""of the images that are searched together; a larger one is searched alone"""


class Detections(NamedTuple):
    """The F faces of an image, in the detector's order; landmarks: eyes, nose, corners of mouth.

    Left is the left of the picture.
    """

    boxes: Float[np.ndarray, "F 4"]
    """left, top, right, bottom; they may reach beyond the image"""
    scores: Float[np.ndarray, " F"]
    """in 0..1"""
    landmarks: Float32[np.ndarray, "F 5 2"]


@runtime_checkable
class FaceDetector(Protocol):
    """What finds faces."""

    def detect(self, images: Sequence[Image.Image]) -> list[Detections]:
        """The faces of each RGB image, in the order of the images."""


class MtcnnDetector:
    """facenet-pytorch's MTCNN, whose weights come with the package; a `FaceDetector`.

    Images of one size are searched together. MTCNN searches copies of the image, each smaller than
    the one before by `factor`; in a photograph beyond `detection_size` the largest copies are left
    out at first. Those that are left are those of the full search, so that it finds the same faces,
    but for the small ones; their boxes are the same, or differ by a few hundredths of the face.
    """

    def __init__(self, config: AlignmentConfig, device: str | torch.device = "cpu") -> None:
        """Loads the three networks onto a device."""
        from facenet_pytorch import MTCNN  # it takes seconds, and most commands need no faces

        self._config = config
        self._networks = MTCNN(
            thresholds=list(config.thresholds),
            factor=config.factor,
            select_largest=False,  # keeps the order of the networks
            device=torch.device(device),
        ).eval()

    def detect(self, images: Sequence[Image.Image]) -> list[Detections]:
        """The faces of each RGB image, in the order of the images."""
        found = [NO_FACES] * len(images)
        for rows in self._batches(images):
            for row, faces in zip(rows, self._search([images[row] for row in rows]), strict=True):
                found[row] = faces
        return found

    def _batches(self, images: Sequence[Image.Image]) -> list[list[int]]:
        """The rows of images that are searched together: of one size, and few enough."""
        by_size: dict[tuple[int, int], list[int]] = {}
        for row, image in enumerate(images):
            if min(image.size) >= self._config.min_face_size:  # a smaller one can hold no face
                by_size.setdefault(image.size, []).append(row)
        batches = []
        for (width, height), rows in by_size.items():
            count = min(self._config.batch_size, max(1, MAX_BATCH_PIXELS // (width * height)))
            batches += [rows[start : start + count] for start in range(0, len(rows), count)]
        return batches

    def _search(self, images: Sequence[Image.Image]) -> list[Detections]:
        """The faces of images of one size."""
        pixels = _pixels(images)
        smallest = first = float(self._config.min_face_size)
        if not self._config.all_faces:
            first /= self._config.factor ** self._skipped(images[0].size)
        found = self._run(pixels, first)
        lost = [row for row, faces in enumerate(found) if not len(faces.boxes)]
        if lost and first > smallest:
            for row, faces in zip(lost, self._run(pixels[lost], smallest), strict=True):
                found[row] = faces
        return found

    def _skipped(self, size: tuple[int, int]) -> int:
        """How many of the largest copies of an image the first search leaves out."""
        wanted, factor = self._config.detection_size, self._config.factor
        if not wanted or max(size) <= wanted:
            return 0
        most = math.log(self._config.min_face_size / min(size), factor)  # one copy must be left
        return min(math.ceil(math.log(wanted / max(size), factor)), int(most))

    def _run(self, pixels: torch.Tensor, min_face_size: float) -> list[Detections]:
        self._networks.min_face_size = min_face_size
        with torch.inference_mode():
            boxes, scores, landmarks = self._networks.detect(pixels, landmarks=True)
        each = zip(boxes, scores, landmarks, strict=True)
        return [_detections(*faces, self._config.min_score) for faces in each]


def _pixels(images: Sequence[Image.Image]) -> Float[torch.Tensor, "B H W 3"]:
    """Float pixels of images of one size, in memory by channels: MTCNN's pooling is faster so."""
    width, height = images[0].size
    channels = torch.empty((len(images), 3, height, width))
    for row, image in enumerate(images):
        channels[row] = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return channels.permute(0, 2, 3, 1)


def _detections(
    boxes: np.ndarray | None, scores: np.ndarray, landmarks: np.ndarray | None, min_score: float
) -> Detections:
    if boxes is None or landmarks is None:
        return NO_FACES
    kept = np.asarray(scores, np.float64) >= min_score
    return Detections(
        np.asarray(boxes, np.float64)[kept],
        np.asarray(scores, np.float64)[kept],
        np.asarray(landmarks, np.float32)[kept],
    )


NO_FACES = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2), np.float32))
