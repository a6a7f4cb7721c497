"""Draws a whole face: the parts in order, back to front."""

import numpy as np
from jaxtyping import Int8
from PIL import Image, ImageFilter

from facevae.data.sources.synthetic import body, features, hair
from facevae.data.sources.synthetic.canvas import Canvas
from facevae.data.sources.synthetic.labels import check_drawable, sample_attributes
from facevae.data.sources.synthetic.portrait import portrait_of

_BLUR_RADIUS = 3.0
_PARTS = (
    body.draw_background,
    hair.draw_hair_back,
    body.draw_neck,
    body.draw_clothing,
    body.draw_necklace,
    body.draw_double_chin,
    body.draw_ears,
    hair.draw_hair_sides,
    body.draw_head,
    features.draw_cheeks,
    features.draw_radiance,
    features.draw_specks,
    features.draw_age_lines,
    features.draw_eyes,
    features.draw_beard,
    features.draw_mouth,
    features.draw_mustache,
    features.draw_nose,
    features.draw_brows,
    hair.draw_hair_front,
    features.draw_glasses,
    hair.draw_hat,
    body.draw_earrings,
)


def draw_face(attributes: Int8[np.ndarray, "40"], rng: np.random.Generator) -> Image.Image:
    """Returns a portrait that shows `attributes`: RGB, 178 wide, 218 high.

    Everything the labels leave open (pose, light, skin tone, clothes) comes from `rng`: two label
    vectors drawn with equal generator states show the same person, changed as the labels say.
    """
    check_drawable(attributes)
    portrait = portrait_of(attributes, rng)
    pose = portrait.pose
    canvas = Canvas(portrait.palette.background, pose.centre, pose.scale, pose.roll, pose.yaw)
    for draw in _PARTS:
        draw(canvas, portrait)
    image = canvas.finished()
    return (
        image.filter(ImageFilter.GaussianBlur(_BLUR_RADIUS)) if "Blurry" in portrait.has else image
    )


def synthetic_face(seed: int, index: int) -> tuple[Image.Image, Int8[np.ndarray, "40"]]:
    """Returns face `index` of set `seed` and its labels (-1 or +1), a pure function of both."""
    rng = np.random.default_rng([seed, index])
    attributes = sample_attributes(rng)
    return draw_face(attributes, rng), attributes


def drawn_attributes(seed: int, index: int) -> Int8[np.ndarray, "40"]:
    """Returns the labels of face `index` of set `seed`, without drawing it."""
    return sample_attributes(np.random.default_rng([seed, index]))
