"""The faces of a photo: which are taken, and what an edit leaves of them."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from facevae.config import AlignmentConfig, ModelConfig
from facevae.data.align import Aligned
from facevae.data.detector import NO_FACES, Detections
from facevae.editing.photo_edit import (
    Moves,
    edit_face,
    edited_crop,
    edited_photo,
    find_faces,
    strongest,
)
from facevae.errors import UserError
from facevae.models import VAE, build_vae
from facevae.pixels import denormalise, model_input

SIZE = 90
BOXES = ((5, 5, 30, 35), (40, 40, 80, 85))
"""of two faces, the second larger and nearer to the middle"""


class Detector:
    """Finds the same faces everywhere."""

    def __init__(self, *boxes: tuple[int, int, int, int]) -> None:
        self._boxes = boxes

    def detect(self, images):
        if not self._boxes:
            return [NO_FACES] * len(images)
        boxes = np.array(self._boxes, np.float64)
        corner, side = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
        places = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)])
        landmarks = (corner + side * places).astype(np.float32)
        return [Detections(boxes, np.ones(len(boxes)), landmarks)] * len(images)


def png() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def find(face: object, *boxes: tuple[int, int, int, int], **settings: object):
    config = AlignmentConfig(size=64, margin=0, all_faces=face != 0, **settings)
    return find_faces(png(), "me.png", face, Detector(*boxes), config)


def test_the_large_central_face_is_the_first():
    assert [f.box for f in find(0, *BOXES).faces] == [BOXES[1]]
    assert [f.box for f in find(1, *BOXES).faces] == [BOXES[0]]
    assert [f.box for f in find("all", *BOXES).faces] == [BOXES[1], BOXES[0]]


@pytest.mark.parametrize(
    ("face", "boxes", "message"),
    [
        (0, (), r"no face is found in me\.png: give a photo .* lower --alignment\.min_score"),
        ("all", (), r"no face is found in me\.png"),
        (2, BOXES, r"--face 2: me\.png has 2 faces, 0 to 1; choose one of them, or all"),
        (1, BOXES[:1], r"--face 1: me\.png has 1 face, 0; choose"),
    ],
)
def test_a_face_that_is_not_there_is_one_line(face, boxes, message):
    with pytest.raises(UserError, match=message):
        find(face, *boxes)


def test_what_is_no_photo_is_one_line():
    with pytest.raises(UserError, match=r"me\.txt cannot be read as a photo: not an image"):
        find_faces(b"hello", "me.txt", 0, Detector(), AlignmentConfig())


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(0)
    return build_vae(ModelConfig(latent_size=3)).eval()


DIRECTION = np.array([3, -3, 3], np.float32)


def along(strengths: Sequence[float]) -> Moves:
    """Moves by multiples of the direction, none of them stopped."""

    def move(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        moved = latents[:, None] + np.asarray(strengths)[None, :, None] * DIRECTION
        return moved, np.zeros(moved.shape[:2], bool)

    return move


def test_a_face_is_encoded_moved_and_decoded(vae):
    (aligned,) = find(0, *BOXES).faces
    face = edit_face(vae, aligned, along((0.0, 1.0, -2.0)))
    assert face.strip.shape == (3, 64, 64, 3)
    with torch.no_grad():
        read = model_input(torch.from_numpy(np.array(aligned.crop))[None], 64, vae.resize_method)
        mean = vae.encode(read).mean
        expected = denormalise(vae.decode(mean + torch.tensor(-2.0) * torch.from_numpy(DIRECTION)))
    np.testing.assert_allclose(face.latents[0], mean[0].numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        face.decoded[3], expected[0].permute(1, 2, 0).clamp(0, 255).numpy(), atol=0.02
    )
    np.testing.assert_array_equal(face.decoded[0], face.decoded[1])  # strength 0


def test_strength_0_leaves_the_photo_and_others_change_its_faces_only(vae):
    found = find("all", *BOXES)
    faces = [edit_face(vae, each, along((0.0, 2.0))) for each in found.faces]
    before = np.asarray(found.photo.image)
    np.testing.assert_array_equal(np.asarray(edited_photo(found.photo, faces, 0, 0.2)), before)
    after = np.asarray(edited_photo(found.photo, faces, 1, 0.2))
    inside = np.zeros((SIZE, SIZE), bool)
    for left, top, right, bottom in BOXES:
        inside[top:bottom, left:right] = True
        assert (after != before)[top:bottom, left:right].any()
    np.testing.assert_array_equal(after[~inside], before[~inside])
    assert (edited_crop(faces[0], 0, 0.2) == np.asarray(faces[0].aligned.crop)).all()
    assert (edited_crop(faces[0], 1, 0.2) != np.asarray(faces[0].aligned.crop)).any()


def test_a_difference_lands_where_the_face_is():
    """A crop of twice the photo's scale, one pixel of which changes."""
    crop = Image.new("RGB", (64, 64))
    to_source = np.array([[0.5, 0, 10], [0, 0.5, 20.0]])
    aligned = Aligned(crop, (10, 20, 42, 52), None, 1.0, "ok", 0, to_source)
    found = find(0, *BOXES)
    decoded = np.zeros((2, 64, 64, 3), np.float32)
    decoded[1, 20:24, 40:44] = 200  # x 40 to 44 in the crop is 30 to 32 in the photo
    face = edit_face_of(aligned, decoded)
    black = found.photo.image.point(lambda _: 0)
    photo = type(found.photo)(black, {}, "PNG")
    after = np.asarray(edited_photo(photo, [face], 0, 0.1))[..., 0].astype(float)
    rows, columns = np.nonzero(after > 100)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (30, 31, 30, 31)


def edit_face_of(aligned: Aligned, decoded: np.ndarray):
    from facevae.editing.photo_edit import EditedFace

    return EditedFace(aligned, decoded[0], np.zeros((2, 3), np.float32), decoded, np.zeros(1, bool))


@pytest.mark.parametrize(
    ("strengths", "expected"),
    [((0.0, 1.0, 2.0), 2), ((-3.0, 0.0, 2.0), 0), ((-2.0, 2.0), 1), ((0.0,), 0)],
)
def test_the_strongest_is_that_which_changes_most(strengths, expected):
    assert strongest(strengths) == expected
