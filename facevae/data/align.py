"""Faces of a photograph, found and cut out: `align` serves training sets and own photographs.

Coordinates of pictures are x before y, in pixels from the upper left corner of the upper left
pixel: the centre of that pixel is at (0.5, 0.5), and a box ends where its right and bottom are.
Legend: F faces of a photograph.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int
from PIL import Image, ImageOps
from torch.nn import functional as F

from facevae.config import AlignmentConfig
from facevae.data.detector import Detections, FaceDetector
from facevae.pixels import crop_and_resize

Status = Literal["ok", "no_face", "unreadable", "too_small"]
Size = tuple[int, int]
"""width, height in pixels"""
Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; right and bottom are excluded"""
Edges = tuple[float, float, float, float]

# The face of CelebA's aligned 178x218 images: the square below the hair line's top, above the neck.
CELEBA_SIZE: Size = (178, 218)
CELEBA_BOX: Box = (15, 40, 163, 188)
CELEBA_LANDMARKS = np.array(
    [(69.6, 111.2), (107.9, 111.2), (88.6, 131.5), (72.6, 152.1), (105.1, 152.1)]
)
"""where CelebA's aligned images have eyes, nose and corners of the mouth on average"""
LARGEST_FRAME = 8
"""a crop this many times as large as its face comes of landmarks that are none"""
MIRRORED = [1, 0, 2, 4, 3]
"""which landmark each becomes in a mirror"""
LOOKS, LOOK_SIZE, LOOK_AROUND = 2, 224, 1.5
"""how often landmarks are looked for again, in how many pixels, and how much wider than the box"""


class _Face(NamedTuple):
    """A face that was found: its box with the margin, landmarks and score."""

    box: Box
    landmarks: Float32[np.ndarray, "5 2"]
    score: float


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
    Where the photograph is turned, the landmarks are looked for again in the face that was turned
    by the first ones: those of a leaning face lean too little, by four degrees of thirty.
    """
    aligned = [config.skip_aligned and image.size == CELEBA_SIZE for image in images]
    searched = [image for image, is_aligned in zip(images, aligned, strict=True) if not is_aligned]
    faces = [
        _choose(found, image.size, config)
        for image, found in zip(searched, _detect(searched, detector), strict=True)
    ]
    if config.framing != "box":
        faces = _look_again(searched, faces, detector)
    rest = iter(faces)
    return [
        [_cut_aligned(image, config)] if is_aligned else _cut_faces(image, next(rest), config)
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


def _detect(images: Sequence[Image.Image], detector: FaceDetector) -> list[Detections]:
    return detector.detect(images) if images else []


def _choose(found: Detections, size: Size, config: AlignmentConfig) -> list[_Face]:
    """Returns the faces that are to be cut out, in order."""
    faces = [
        _Face(margin_box(found.boxes[i], size, config.margin), found.landmarks[i], found.scores[i])
        for i in central_order(found.boxes, size).tolist()
    ]
    faces = [face for face in faces if face.box[0] < face.box[2] and face.box[1] < face.box[3]]
    return faces if config.all_faces else faces[:1]


def _look_again(
    images: Sequence[Image.Image], faces: list[list[_Face]], detector: FaceDetector
) -> list[list[_Face]]:
    """Returns the faces of each image with the landmarks that they have when they are level."""
    for _ in range(LOOKS):
        frames = [[_wide_frame(face) for face in each] for each in faces]
        crops = [
            warp(image, frame, LOOK_SIZE)
            for image, each in zip(images, frames, strict=True)
            for frame in each
        ]
        found = _detect([*crops, *map(ImageOps.mirror, crops)], detector)
        looks = iter(zip(found[: len(crops)], found[len(crops) :], strict=True))
        faces = [
            [_relocated(face, frame, *next(looks)) for face, frame in zip(*pair, strict=True)]
            for pair in zip(faces, frames, strict=True)
        ]
    return faces


def _wide_frame(face: _Face) -> Float64[np.ndarray, "2 3"]:
    """Returns the level frame of a square around a face."""
    left, top, right, bottom = face.box
    half = LOOK_AROUND * max(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return _level_frame((x - half, y - half, x + half, y + half), face.landmarks, LOOK_SIZE)


def _relocated(
    face: _Face, frame: Float64[np.ndarray, "2 3"], seen: Detections, mirrored: Detections
) -> _Face:
    """Returns a face with the mean of the landmarks in its frame and in the frame's mirror image.

    The first ones stay where it was not found in both.
    """
    if not len(seen.boxes) or not len(mirrored.boxes):
        return face
    one, other = (
        found.landmarks[central_order(found.boxes, (LOOK_SIZE, LOOK_SIZE))[0]].astype(np.float64)
        for found in (seen, mirrored)
    )
    other = np.column_stack([LOOK_SIZE - other[:, 0], other[:, 1]])[MIRRORED]
    landmarks = np.column_stack([(one + other) / 2, np.ones(5)]) @ frame.T
    return face._replace(landmarks=landmarks.astype(np.float32))


def _cut_faces(image: Image.Image, faces: list[_Face], config: AlignmentConfig) -> list[Aligned]:
    if not faces:
        return [_without_face(image, config)]
    return [_cut_face(image, face, index, config) for index, face in enumerate(faces)]


def _cut_aligned(image: Image.Image, config: AlignmentConfig) -> Aligned:
    crop = crop_and_resize(image, CELEBA_BOX, config.size)  # the same as without alignment
    frame = _box_frame(CELEBA_BOX, config.size)
    return Aligned(crop, CELEBA_BOX, None, math.nan, "ok", to_source=frame)


def _cut_face(image: Image.Image, face: _Face, index: int, config: AlignmentConfig) -> Aligned:
    box, landmarks, score = face.box, face.landmarks, float(face.score)
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


def _cut_box(image: Image.Image, box: Box, size: int) -> Image.Image:
    """Returns the pixels of a box, stretched to a square; none beyond it have a part in them."""
    return image.crop(box).resize((size, size), Image.Resampling.BILINEAR)


def _box_frame(box: Box | Edges, size: int) -> Float64[np.ndarray, "2 3"]:
    left, top, right, bottom = box
    return np.array([[(right - left) / size, 0.0, left], [0.0, (bottom - top) / size, top]])


def _level_frame(
    box: Box | Edges, landmarks: Float32[np.ndarray, "5 2"], size: int
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

    Cubic splines, rounded (Pillow's own are cut off, and darken); beyond the image its border goes
    on. Shrinking averages whole blocks of pixels first, and then two by two samples of each.
    """
    corners = to_source @ [(0, size, 0, size), (0, 0, size, size), (1, 1, 1, 1)]
    scale = _scale(to_source)
    block, samples = max(1, int(scale)), 2 if scale > 1 else 1
    room = 3 * block  # what a spline reads around a place
    left, top = (max(math.floor(low) - room, 0) for low in corners.min(axis=1))
    right, bottom = (math.ceil(high) + room for high in corners.max(axis=1))
    left, top = min(left, image.width - 1), min(top, image.height - 1)
    right, bottom = (
        min(max(right, left + 1), image.width),
        min(max(bottom, top + 1), image.height),
    )
    part = np.array(image.crop((left, top, right, bottom)).reduce(block))
    at = (np.arange(size * samples) + 0.5) / samples
    x, y = (
        row[0] * at[None, :] + row[1] * at[:, None] + row[2] - edge
        for row, edge in zip(to_source, (left, top), strict=True)
    )
    height, width = part.shape[:2]
    grid = np.stack([x / block / width, y / block / height], axis=-1) * 2 - 1
    warped = F.grid_sample(
        torch.from_numpy(part).permute(2, 0, 1)[None].float(),
        torch.from_numpy(grid)[None].float(),
        mode="bicubic",
        padding_mode="border",
        align_corners=False,
    )
    pixels = F.avg_pool2d(warped, samples).clamp(0, 255).round().to(torch.uint8)
    return Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
