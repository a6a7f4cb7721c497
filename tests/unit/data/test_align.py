"""Faces are found and cut out as the original does it; levelled; as CelebA's; and put back."""

import math

import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from PIL import Image
from skimage.transform import SimilarityTransform

from facevae.config import AlignmentConfig
from facevae.data.align import (
    CELEBA_BOX,
    CELEBA_LANDMARKS,
    CELEBA_SIZE,
    align,
    align_faces,
    align_images,
    fit_similarity,
    warp,
)
from facevae.data.detector import NO_FACES, Detections, MtcnnDetector
from facevae.data.sources.synthetic import synthetic_face
from facevae.pixels import crop_and_resize
from tests.photographs import at_border, background, placed, portrait, turned

EYES_OF_PORTRAIT = 2.5
"""degrees that the line of her eyes falls to the right"""
ORIGINAL = AlignmentConfig(detection_size=0)
SMOOTH = (40.0, 30.0, 110.0, 120.0)
EYES = np.array([(60, 60), (90, 52), (77, 76), (66, 92), (92, 86)], np.float32)


class Planted:
    """A detector that finds what it is told to."""

    def __init__(self, *boxes, landmarks=EYES):
        count = len(boxes)
        self.found = Detections(
            np.array(boxes, np.float64).reshape(count, 4),
            np.linspace(0.9, 0.8, count),
            np.stack([landmarks] * count).astype(np.float32) if count else np.zeros((0, 5, 2), "f"),
        )

    def detect(self, images):
        found, self.found = self.found, NO_FACES  # a second look finds nothing more
        return [found for _ in images]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As in an actor; more only wait for each other on images as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def detector():
    return MtcnnDetector(AlignmentConfig())


@pytest.fixture(scope="module")
def plain():
    return MTCNN(select_largest=False)


def originals_box(boxes, width, height, margin=44):
    """The rule of align_dataset_mtcnn.py, said again number by number."""
    best, most = None, -math.inf
    for left, top, right, bottom in boxes:
        x, y = (left + right) / 2 - width / 2, (top + bottom) / 2 - height / 2
        value = (right - left) * (bottom - top) - 2.0 * (x * x + y * y)
        if value > most:
            best, most = (left, top, right, bottom), value
    left, top, right, bottom = best
    return (
        math.trunc(max(left - margin / 2, 0.0)),
        math.trunc(max(top - margin / 2, 0.0)),
        math.trunc(min(right + margin / 2, width)),
        math.trunc(min(bottom + margin / 2, height)),
    )


PICTURES = {
    "whole": lambda: portrait(256),
    "small": lambda: portrait(96),
    "large": lambda: placed((1400, 1100), (300, 100, 900)),
    "off the centre": lambda: placed((600, 428), (344, 172, 256)),
    "turned": lambda: turned(-18),
    "large beside central": lambda: placed((700, 300), (0, 0, 300), (330, 60, 160)),
    "left border": lambda: at_border(0, 1, 1, 1),
    "top border": lambda: at_border(1, 0, 1, 1),
    "right border": lambda: at_border(1, 1, 0, 1),
    "bottom border": lambda: at_border(1, 1, 1, 0),
    "corner": lambda: at_border(0.1, 0.1, 1, 1),
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_box_is_the_originals(name, plain):
    image = PICTURES[name]()
    boxes, _ = plain.detect(image)
    aligned = align(image, MtcnnDetector(ORIGINAL), ORIGINAL)
    assert aligned.status == "ok"
    assert aligned.box == originals_box(boxes, *image.size)
    cut = np.asarray(image)[aligned.box[1] : aligned.box[3], aligned.box[0] : aligned.box[2]]
    expected = Image.fromarray(cut).resize((182, 182), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.asarray(aligned.crop), np.asarray(expected))


def test_margins_end_at_the_borders_of_the_photograph(detector):
    left, top, _, _ = align(at_border(0, 0, 1, 1), detector, AlignmentConfig()).box
    assert (left, top) == (0, 0)
    image = at_border(1, 1, 0, 0)
    _, _, right, bottom = align(image, detector, AlignmentConfig()).box
    assert (right, bottom) == image.size


def test_the_central_face_beats_the_larger_one():
    image = background(400, 200)
    corner, centre = (0.0, 0.0, 90.0, 90.0), (170.0, 70.0, 230.0, 130.0)
    faces = align_faces(image, Planted(corner, centre), AlignmentConfig(margin=0))
    assert [face.box for face in faces] == [(170, 70, 230, 130), (0, 0, 90, 90)]
    assert [face.index for face in faces] == [0, 1]
    assert [face.score for face in faces] == pytest.approx([0.8, 0.9])
    assert align(image, Planted(corner, centre), AlignmentConfig(margin=0)).box == faces[0].box


def test_all_faces_are_found_on_request(detector):
    image = placed((560, 256), (0, 0, 256), (300, 0, 192))
    (both,) = align_images([image], detector, AlignmentConfig(all_faces=True))
    (one,) = align_images([image], detector, AlignmentConfig())
    assert len(both) == 2
    assert [face.box for face in one] == [both[0].box]
    assert both[0].box[0] > 300 > both[1].box[2]


def test_the_short_search_of_a_large_photograph_finds_what_the_full_one_does(plain):
    image = placed((1500, 1100), (400, 150, 750))
    short, full = (MtcnnDetector(AlignmentConfig(detection_size=n)) for n in (350, 0))
    calls = []
    run = short._run
    short._run = lambda pixels, size: calls.append(size) or run(pixels, size)
    (found,), (expected,) = short.detect([image]), full.detect([image])
    assert calls == [pytest.approx(20 / 0.709**5)]
    best = expected.boxes[:, 2] - expected.boxes[:, 0] > 100
    assert best.sum() == 1
    side = found.boxes[0, 2] - found.boxes[0, 0]
    np.testing.assert_allclose(found.boxes, expected.boxes[best], atol=0.05 * side)
    np.testing.assert_allclose(found.landmarks, expected.landmarks[best], atol=0.05 * side)
    boxes, _ = plain.detect(image)
    np.testing.assert_allclose(expected.boxes, boxes.astype(float), atol=0.01)


def test_a_face_too_small_for_the_short_search_is_found_by_the_full_one():
    image = placed((1600, 1200), (700, 500, 128))
    aligned = align(image, MtcnnDetector(AlignmentConfig(detection_size=200)), AlignmentConfig())
    assert aligned.status == "ok"
    assert 700 < aligned.box[0] < aligned.box[2] < 828


def test_images_that_are_searched_together_have_the_faces_of_each(detector):
    images = [portrait(160), turned(12, 160), background(160, 160), portrait(96), turned(-6, 160)]
    together = detector.detect(images)
    for image, found in zip(images, together, strict=True):
        (alone,) = detector.detect([image])
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=0.01)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-4)


@pytest.mark.parametrize("angle", [-30, -15, 0, 10, 25])
def test_eyes_are_level_within_a_degree(angle, detector):
    config = AlignmentConfig(framing="level", size=256)
    aligned = align(turned(angle, 512), detector, config)
    assert tilt(again := align(aligned.crop, detector, AlignmentConfig())) == pytest.approx(
        0, abs=1
    )
    turn = math.degrees(math.atan2(*aligned.to_source[::-1, 0]))
    assert turn + angle == pytest.approx(EYES_OF_PORTRAIT, abs=2.5)  # and it is the same turn
    assert again.status == "ok"


def tilt(aligned):
    x, y = aligned.landmarks[1] - aligned.landmarks[0]
    return math.degrees(math.atan2(y, x))


def test_a_similarity_is_the_one_of_scikit_image():
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(2, 5, 2))
    found = fit_similarity(source, target)
    np.testing.assert_allclose(
        found, SimilarityTransform.from_estimate(source, target).params[:2], atol=1e-12
    )


def test_celebas_framing_puts_the_landmarks_where_celeba_has_them(detector):
    image = turned(20, 512)
    aligned = align(image, detector, AlignmentConfig(framing="celeba", size=148))
    inverse = np.linalg.inv(np.vstack([aligned.to_source, [0, 0, 1]]))
    in_crop = np.column_stack([aligned.landmarks, np.ones(5)]) @ inverse[:2].T
    wanted = CELEBA_LANDMARKS - CELEBA_BOX[:2]
    fitted = SimilarityTransform.from_estimate(aligned.landmarks, wanted)
    np.testing.assert_allclose(in_crop, fitted(aligned.landmarks), atol=1e-3)
    assert np.abs(in_crop - wanted).max() < 6
    again = align(aligned.crop, detector, AlignmentConfig(skip_aligned=False))
    assert np.abs(again.landmarks - in_crop).max() < 4


def test_landmarks_in_one_place_leave_a_crop_that_is_only_levelled():
    image = background(200, 160)
    one_place = Planted(SMOOTH, landmarks=np.full((5, 2), 70.0))
    aligned = align(image, one_place, AlignmentConfig(framing="celeba"))
    assert aligned.status == "ok"
    assert np.isfinite(aligned.to_source).all()


@pytest.mark.parametrize("framing", ["box", "level", "celeba"])
@pytest.mark.parametrize("size", [32, 182])
def test_the_matrix_leads_from_the_crop_to_the_photograph(framing, size):
    width, height = 200, 160  # red tells x, green tells y: at a pixel's centre x = 0.5, 1.5, ...
    y, x = np.mgrid[:height, :width]
    ramps = np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)
    config = AlignmentConfig(framing=framing, size=size, margin=10)
    aligned = align(Image.fromarray(ramps), Planted(SMOOTH), config)
    crop = np.asarray(aligned.crop).astype(float)
    row, column = np.mgrid[:size, :size] + 0.5
    places = np.stack([column, row, np.ones_like(row)], axis=-1) @ aligned.to_source.T
    inside = ((places > 4) & (places < (width - 4, height - 4))).all(axis=-1)
    assert inside.mean() > 0.6
    error = crop[..., :2] - (places - 0.5)
    assert np.abs(error[inside]).max() < 1.5  # rounding to whole numbers, twice
    # Blocks of whole numbers are rounded up.
    assert np.abs(error[inside].mean()) < (0.1 if size == 182 and framing != "box" else 0.6)


def test_beyond_the_photograph_its_border_goes_on():
    image = Image.new("RGB", (40, 40), (10, 200, 30))
    matrix = np.array([[2.0, 0.3, -30.0], [-0.3, 2.0, -20.0]])
    warped = np.asarray(warp(image, matrix, 64))
    assert (np.abs(warped.astype(int) - (10, 200, 30)) <= 1).all()


def test_shrinking_averages():
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (1200, 1200, 3), np.uint8))
    angle = math.radians(20)
    matrix = 12 * np.array([[math.cos(angle), -math.sin(angle), 0],
                            [math.sin(angle), math.cos(angle), 0]])  # fmt: skip
    matrix[:, 2] = np.array([600, 600]) - matrix[:, :2] @ [16, 16]
    assert np.asarray(warp(noise, matrix, 32)).astype(float).std() < 20  # of 74


def test_a_photograph_without_a_face(detector):
    image = background(300, 200)
    dropped = align(image, detector, AlignmentConfig())
    assert (dropped.status, dropped.crop, dropped.box) == ("no_face", None, None)
    assert math.isnan(dropped.score)
    centre = align(image, detector, AlignmentConfig(no_face="centre"))
    assert (centre.status, centre.box) == ("no_face", (50, 0, 250, 200))
    assert centre.crop.size == (182, 182)
    np.testing.assert_allclose(centre.to_source @ [0, 0, 1], [50, 0])
    np.testing.assert_allclose(centre.to_source @ [182, 182, 1], [250, 200])


def test_an_image_smaller_than_a_face_is_too_small(detector):
    for no_face in ("drop", "centre"):
        aligned = align(background(19, 300), detector, AlignmentConfig(no_face=no_face))
        assert (aligned.status, aligned.crop) == ("too_small", None)


def test_a_box_that_leaves_nothing_is_no_face():
    outside = Planted((-90.0, -90.0, -50.0, -50.0))
    assert align(background(100, 100), outside, AlignmentConfig()).status == "no_face"


def test_an_unsure_face_may_be_none(detector):
    image = portrait(256)
    sure = align(image, detector, AlignmentConfig()).score
    assert align(image, MtcnnDetector(AlignmentConfig(min_score=0.99)), ORIGINAL).status == "ok"
    if sure < 0.9999999:
        unsure = MtcnnDetector(AlignmentConfig(min_score=sure + 1e-9))
        assert align(image, unsure, ORIGINAL).status == "no_face"


def test_what_is_aligned_already_is_not_searched():
    image, _ = synthetic_face(0, 0)
    assert image.size == CELEBA_SIZE
    never = Planted(SMOOTH)
    aligned = align(image, never, AlignmentConfig(size=64, framing="celeba"))
    assert len(never.found.boxes) == 1, "it was not asked"
    assert (aligned.status, aligned.box) == ("ok", CELEBA_BOX)
    expected = crop_and_resize(image, CELEBA_BOX, 64)
    np.testing.assert_array_equal(np.asarray(aligned.crop), np.asarray(expected))
    searched = align(image, Planted(SMOOTH), AlignmentConfig(skip_aligned=False))
    assert searched.box != CELEBA_BOX
