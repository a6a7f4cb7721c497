"""Faces of a photograph, found and cut out: `align` serves training sets and own photographs.

Coordinates of pictures are x before y, in pixels from the upper left corner of the upper left
pixel: the centre of that pixel is at (0.5, 0.5), and a box ends where its right and bottom are.
Legend: F faces of a photograph.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64, Int
from PIL import Image

from facevae.config import AlignmentConfig
from facevae.data.detector import Detections, FaceDetector

Status = Literal["ok", "no_face", "unreadable", "too_small"]
Size = tuple[int, int]
"""width, height in pixels"""
Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; right and bottom are excluded"""

# The face of CelebA's aligned 178x218 images: the square below the hair line's top, above the neck.
CELEBA_SIZE: Size = (178, 218)
CELEBA_BOX: Box = (15, 40, 163, 188)
CELEBA_LANDMARKS = np.array(
    [(69.6, 111.2), (107.9, 111.2), (88.6, 131.5), (72.6, 152.1), (105.1, 152.1)]
)
"""where CelebA's aligned images have eyes, nose and corners of the mouth on average"""
LARGEST_FRAME = 8
"""a crop this many times as large as its face comes of landmarks that are none"""


@dataclass(frozen=True, eq=False)
class Aligned:
    """A face cut out of a photograph, or why there is none."""

    crop: Image.Image | None
    """RGB, `size` x `size` pixels; none: there is no face, and no centred square was asked for"""
    box: Box | None
    """the face with its margin in the upright photograph, whatever the framing; for a centred
    square: that"""
    landmarks: Float32[np.ndarray, "5 2"] | None
    """in the upright photograph: eyes, nose, corners of the mouth; those on the picture's left
    first"""
    score: float
    """the detector's, in 0..1; NaN: it found none, or did not search"""
    status: Status
    index: int = 0
    """which face of the photograph; `align`'s is 0"""
    to_source: Float64[np.ndarray, "2 3"] | None = None
    """the matrix that takes (x, y, 1) in the crop to its place in the upright photograph"""


def align(image: Image.Image, detector: FaceDetector, config: AlignmentConfig) -> Aligned:
    """Returns the face of an upright RGB photograph: of several, the large and central one.

    That is argmax(area - 2 distance²), distance being from the photograph's centre (the original's
    align_dataset_mtcnn.py). Without a face the status is `no_face`, and a crop comes only with
    `config.no_face` "centre"; "fail" is up to the caller. What is too small for any face is
    `too_small`.
    """
    return align_images([image], detector, config.model_copy(update={"all_faces": False}))[0][0]


def align_faces(
    image: Image.Image, detector: FaceDetector, config: AlignmentConfig
) -> list[Aligned]:
    """Returns all faces of an upright RGB photograph, those that `align` prefers first.

    Never empty: without a face, what `align` returns.
    """
    return align_images([image], detector, config.model_copy(update={"all_faces": True}))[0]


def align_images(
    images: Sequence[Image.Image], detector: FaceDetector, config: AlignmentConfig
) -> list[list[Aligned]]:
    """Returns for each image what `align_faces` does, or `align` unless `config.all_faces`.

    The detector searches images of one size together. CelebA's aligned images are not searched.
    """
    aligned = [config.skip_aligned and image.size == CELEBA_SIZE for image in images]
    searched = [image for image, is_aligned in zip(images, aligned, strict=True) if not is_aligned]
    found = iter(detector.detect(searched) if searched else [])
    return [
        [_cut_aligned(image, config)] if is_aligned else _cut_faces(image, next(found), config)
        for image, is_aligned in zip(images, aligned, strict=True)
    ]


def central_order(boxes: Float[np.ndarray, "F 4"], size: Size) -> Int[np.ndarray, " F"]:
    """Returns the rows of boxes by area - 2 distance² from the image's centre, largest first."""
    left, top, right, bottom = boxes.astype(np.float64).T
    x, y = (left + right - size[0]) / 2, (top + bottom - size[1]) / 2
    return np.argsort(-((right - left) * (bottom - top) - 2 * (x**2 + y**2)), kind="stable")


def margin_box(box: Float[np.ndarray, "4"], size: Size, margin: int) -> Box:
    """Returns a detected box with half the margin on each side, within the image, cut to whole
    pixels (the original's align_dataset_mtcnn.py).
    """  # noqa: D205
    left, top, right, bottom = box.tolist()
    half = margin / 2
    return (
        int(max(left - half, 0)),
        int(max(top - half, 0)),
        int(min(right + half, size[0])),
        int(min(bottom + half, size[1])),
    )


def fit_similarity(
    source: Float[np.ndarray, "P 2"], target: Float[np.ndarray, "P 2"]
) -> Float64[np.ndarray, "2 3"]:
    """Returns the matrix of the turn, scale and shift that brings points closest to others.

    Closest is least squares (Umeyama 1991). In the complex plane it is target = a source + b.
    """
    p, q = (points.astype(np.float64) @ [1, 1j] for points in (source, target))
    a = np.vdot(p - p.mean(), q - q.mean()) / np.vdot(p - p.mean(), p - p.mean())
    b = q.mean() - a * p.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def _cut_faces(image: Image.Image, found: Detections, config: AlignmentConfig) -> list[Aligned]:
    boxes = [margin_box(box, image.size, config.margin) for box in found.boxes]
    order = central_order(found.boxes, image.size).tolist()
    faces = [face for face in order if not _is_empty(boxes[face])]
    if not faces:
        return [_without_face(image, config)]
    return [
        _cut_face(image, boxes[face], found.landmarks[face], float(found.scores[face]), i, config)
        for i, face in enumerate(faces if config.all_faces else faces[:1])
    ]


def _cut_aligned(image: Image.Image, config: AlignmentConfig) -> Aligned:
    crop, frame = _cut_box(image, CELEBA_BOX, config.size), _box_frame(CELEBA_BOX, config.size)
    return Aligned(crop, CELEBA_BOX, None, math.nan, "ok", to_source=frame)


def _cut_face(
    image: Image.Image,
    box: Box,
    landmarks: Float32[np.ndarray, "5 2"],
    score: float,
    index: int,
    config: AlignmentConfig,
) -> Aligned:
    frame = _box_frame(box, config.size)
    if config.framing == "box":
        crop = _cut_box(image, box, config.size)
        return Aligned(crop, box, landmarks, score, "ok", index, frame)
    if config.framing == "level":
        frame = _level_frame(box, landmarks, config.size)
    else:
        celeba = _celeba_frame(landmarks, config.size)
        largest = LARGEST_FRAME * max(box[2] - box[0], box[3] - box[1])
        is_sound = np.isfinite(celeba).all() and _scale(celeba) * config.size <= largest
        frame = celeba if is_sound else _level_frame(box, landmarks, config.size)
    crop = warp(image, frame, config.size)
    return Aligned(crop, box, landmarks, score, "ok", index, frame)


def _without_face(image: Image.Image, config: AlignmentConfig) -> Aligned:
    if min(image.size) < config.min_face_size:
        return Aligned(None, None, None, math.nan, "too_small")
    if config.no_face != "centre":
        return Aligned(None, None, None, math.nan, "no_face")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    crop, frame = _cut_box(image, box, config.size), _box_frame(box, config.size)
    return Aligned(crop, box, None, math.nan, "no_face", to_source=frame)


def _is_empty(box: Box) -> bool:
    return box[0] >= box[2] or box[1] >= box[3]


def _cut_box(image: Image.Image, box: Box, size: int) -> Image.Image:
    """Returns the pixels of a box, stretched to a square; none beyond it have a part in them."""
    return image.crop(box).resize((size, size), Image.Resampling.BILINEAR)


def _box_frame(box: Box, size: int) -> Float64[np.ndarray, "2 3"]:
    left, top, right, bottom = box
    return np.array([[(right - left) / size, 0.0, left], [0.0, (bottom - top) / size, top]])


def _level_frame(
    box: Box, landmarks: Float32[np.ndarray, "5 2"], size: int
) -> Float64[np.ndarray, "2 3"]:
    """Returns the frame of a box that is turned about its centre as the line of the eyes is."""
    x, y = (landmarks[1] - landmarks[0]).astype(np.float64)
    angle = math.atan2(y, x)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    frame = _box_frame(box, size)
    centre = frame @ [size / 2, size / 2, 1]
    turned = turn @ frame[:, :2]
    return np.column_stack([turned, centre - turned @ [size / 2, size / 2]])


def _celeba_frame(landmarks: Float32[np.ndarray, "5 2"], size: int) -> Float64[np.ndarray, "2 3"]:
    """Returns the frame that has the landmarks where crops of CelebA's aligned images have them."""
    in_crop = (CELEBA_LANDMARKS - CELEBA_BOX[:2]) * (size / (CELEBA_BOX[2] - CELEBA_BOX[0]))
    with np.errstate(divide="ignore", invalid="ignore"):  # of landmarks in one place
        to_crop = fit_similarity(landmarks, in_crop)
        a, b = complex(to_crop[0, 0], to_crop[1, 0]), complex(to_crop[0, 2], to_crop[1, 2])
    if not abs(a) > 0:
        return np.full((2, 3), np.nan)
    a, b = 1 / a, -b / a
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def _scale(frame: Float64[np.ndarray, "2 3"]) -> float:
    """Returns how many pixels of the photograph are one of the crop, along a side."""
    return math.sqrt(abs(float(np.linalg.det(frame[:, :2]))))


def warp(image: Image.Image, to_source: Float64[np.ndarray, "2 3"], size: int) -> Image.Image:
    """Returns the RGB crop of `size` x `size` pixels whose places in an RGB image a matrix tells.

    Beyond the image its border goes on. Shrinking averages whole blocks of pixels first, and then
    two by two samples of each.
    """
    corners = to_source @ [(0, size, 0, size), (0, 0, size, size), (1, 1, 1, 1)]
    block = max(1, int(_scale(to_source)))
    room = 2 * block + 2  # what a cubic spline reads around a place
    left, top = (math.floor(low) - room for low in corners.min(axis=1))
    right, bottom = (math.ceil(high) + room for high in corners.max(axis=1))
    columns = np.arange(left, right).clip(0, image.width - 1)
    rows = np.arange(top, bottom).clip(0, image.height - 1)
    inside = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    pixels = np.asarray(image.crop(inside))[np.ix_(rows - rows[0], columns - columns[0])]
    part = Image.fromarray(pixels).reduce(block)
    samples = 2 if _scale(to_source) > 1 else 1
    to_part = (to_source - [[0, 0, left], [0, 0, top]]) / block
    to_part[:, :2] /= samples
    warped = part.transform(
        (size * samples, size * samples),
        Image.Transform.AFFINE,
        tuple(to_part.ravel().tolist()),
        Image.Resampling.BICUBIC,
    )
    return warped.reduce(samples)
