"""Photos: what survives opening and saving, and what a difference changes."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from facevae.data.images import BadImageError
from facevae.editing.photo import (
    Photo,
    check_format,
    losses,
    open_photo,
    put_back,
    save_photo,
    scaled,
    window,
)
from facevae.errors import UserError

WIDTH, HEIGHT = 60, 50
PROFILE = b"a profile of colours" * 9
RANDOM = np.random.default_rng(0)
SAMPLES = {
    "L": RANDOM.integers(0, 256, (HEIGHT, WIDTH), np.uint8),
    "LA": RANDOM.integers(0, 256, (HEIGHT, WIDTH, 2), np.uint8),
    "RGB": RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8),
    "RGBA": RANDOM.integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8),
    "I;16": RANDOM.integers(0, 65536, (HEIGHT, WIDTH), np.uint16),
}
TURNED = np.array([[1.2, -0.5, 20.0], [0.5, 1.2, 3.0]])
"""a face of 16 pixels, turned and enlarged"""


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, file_format, **options)
    return content.getvalue()


def exif(orientation: int = 1) -> Image.Exif:
    made = Image.Exif()
    made[0x010F], made[0x0112] = "Maker", orientation
    made.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    made.get_ifd(0x8825)[1] = "N"
    return made


def difference(size: int = 16) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 40, (size, size, 3)).astype(np.float32)


@pytest.mark.parametrize("mode", SAMPLES)
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_samples_keep_their_mode_and_depth(mode, file_format):
    photo = open_photo(encoded(Image.fromarray(SAMPLES[mode]), file_format))
    assert (photo.image.mode, photo.lost) == (mode, ())
    np.testing.assert_array_equal(np.asarray(photo.image), SAMPLES[mode])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_upright_with_its_exif_and_profile(orientation):
    marked = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    marked[:10, :10] = 255
    turn = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
    is_mirrored = orientation in (2, 4, 5, 7)
    expected = np.rot90(np.fliplr(marked) if is_mirrored else marked, turn)
    data = encoded(
        Image.fromarray(marked), exif=exif(orientation), icc_profile=PROFILE, dpi=(300, 300)
    )
    photo = open_photo(data)
    np.testing.assert_array_equal(np.asarray(photo.image), expected)
    kept = Image.Exif()
    kept.load(photo.beside["exif"])
    assert kept[0x010F] == "Maker"
    assert 0x0112 not in kept
    assert kept.get_ifd(0x8769)[0x9003] == "2020:01:01 00:00:00"
    assert kept.get_ifd(0x8825)[1] == "N"
    assert photo.beside["icc_profile"] == PROFILE


def sixteen_bit_colours() -> bytes:
    """A PNG of 16 bits per channel, which Pillow reads and cannot write."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + bytes(6 * WIDTH) for _ in range(HEIGHT))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def of_mode(mode: str, file_format: str, **options: object) -> bytes:
    return encoded(Image.fromarray(SAMPLES["RGB"]).convert(mode), file_format, **options)


@pytest.mark.parametrize(
    ("data", "mode", "lost"),
    [
        (of_mode("CMYK", "TIFF", icc_profile=PROFILE), "RGB", "CMYK: the photo is written as RGB"),
        (of_mode("P", "PNG"), "RGB", "the palette"),
        (of_mode("1", "PNG"), "L", "one bit per sample"),
        (sixteen_bit_colours(), "RGB", "16 bits per sample: 8 are kept"),
        (
            encoded(
                Image.fromarray(SAMPLES["RGB"]),
                "TIFF",
                save_all=True,
                append_images=[Image.fromarray(SAMPLES["L"])],
            ),
            "RGB",
            "the file's other pictures",
        ),
    ],
)
def test_what_is_lost_is_said(data, mode, lost):
    photo = open_photo(data)
    assert photo.image.mode == mode
    assert any(each.startswith(lost) for each in photo.lost), photo.lost
    assert mode != "RGB" or "CMYK" not in lost or "icc_profile" not in photo.beside


@pytest.mark.parametrize("file_format", ["AVIF", "JPEG2000", "WEBP", "JPEG", "GIF", "BMP"])
def test_8_bits_are_not_said_to_be_lost(file_format):
    photo = open_photo(encoded(Image.fromarray(SAMPLES["RGB"]), file_format))
    assert [each for each in photo.lost if "bits" in each] == []
    assert photo.file_format == file_format


def test_more_bits_than_pillow_reads_are_said_to_be_lost():
    data = encoded(Image.fromarray(SAMPLES["RGB"]), "JPEG2000")
    assert b"\0\3\7\1\1\7\1\1\7\1\1" in data  # three components of 7 + 1 bits
    deeper = data.replace(b"\0\3\7\1\1\7\1\1\7\1\1", b"\0\3\x09\1\1\x09\1\1\x09\1\1")
    assert "10 bits per sample: 8 are kept" in open_photo(deeper).lost


def test_damaged_exif_is_no_reason_to_refuse_a_photo():
    data = encoded(Image.fromarray(SAMPLES["RGB"]), "JPEG", exif=exif())
    start = data.index(b"Exif\0\0") + 6
    damaged = data[: start + 8] + b"\xff" * 12 + data[start + 20 :]
    photo = open_photo(damaged)
    assert photo.image.size == (WIDTH, HEIGHT)


def test_what_is_no_photo_is_refused():
    for data in (b"", b"no picture", encoded(Image.new("RGB", (8, 8))), of_mode("F", "TIFF")):
        with pytest.raises(BadImageError):
            open_photo(data)


@pytest.mark.parametrize("mode", SAMPLES)
@pytest.mark.parametrize("to_source", [TURNED, TURNED - [[0, 0, 30], [0, 0, 9]], TURNED / 4])
def test_nothing_but_the_face_changes(mode, to_source):
    before = SAMPLES[mode]
    after = np.asarray(put_back(Image.fromarray(before), difference(), to_source, 0.2))
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    inverse = np.linalg.inv(to_source[:, :2])
    u, v = np.tensordot(inverse, [x - to_source[0, 2], y - to_source[1, 2]], 1)
    outside = (u <= 0) | (v <= 0) | (u >= 16) | (v >= 16)
    assert outside.any()
    np.testing.assert_array_equal(after[outside], before[outside])
    assert (after[~outside] != before[~outside]).any()
    if mode in ("LA", "RGBA"):
        np.testing.assert_array_equal(after[..., -1], before[..., -1])
    assert after.dtype == before.dtype


def test_the_difference_is_that_of_a_slow_version():
    """Linear interpolation by scipy is close where the difference is smooth; the window is ours."""
    smooth = ndimage.gaussian_filter(difference(), (3, 3, 0)).astype(np.float32) * 8
    photo = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    after = np.asarray(put_back(Image.fromarray(photo), smooth, TURNED, 0.3)).astype(int)
    inverse = np.linalg.inv(TURNED[:, :2])
    expected = np.zeros(photo.shape)
    for y in range(0, HEIGHT, 3):  # a slow version indeed
        for x in range(0, WIDTH, 3):
            u, v = inverse @ (np.array([x, y]) + 0.5 - TURNED[:, 2])
            weight = 1.0
            for place in (u / 16, v / 16):
                t = np.clip(min(place, 1 - place) / 0.3, 0, 1)
                weight *= 3 * t**2 - 2 * t**3
            places = [[v - 0.5], [u - 0.5]]
            for channel in range(3):
                (there,) = ndimage.map_coordinates(
                    smooth[..., channel], places, order=3, mode="nearest"
                )
                expected[y, x, channel] = weight * there
    assert np.abs(expected).max() > 20
    np.testing.assert_allclose((after - 128)[::3, ::3], expected[::3, ::3], atol=1.6)


@pytest.mark.parametrize("mode", SAMPLES)
def test_an_even_difference_is_added_in_the_samples_own_range(mode):
    even = np.full((16, 16, 3), 20, np.float32)
    scale = 257 if mode == "I;16" else 1
    photo = np.full_like(SAMPLES[mode], 100 * scale)
    after = np.asarray(put_back(Image.fromarray(photo), even, scaled(np.eye(2, 3), 48, 16), 0.2))
    colours = after.reshape(HEIGHT, WIDTH, -1)[..., : 3 if "RGB" in mode else 1]
    assert (colours[20:28, 20:28] == 120 * scale).all()
    assert after.max() == 120 * scale


def test_sums_are_clipped():
    bright = np.full((16, 16, 3), 300, np.float32)
    for sign, photo, expected in ((1, 250, 255), (-1, 5, 0)):
        image = Image.new("RGB", (16, 16), (photo,) * 3)
        after = np.asarray(put_back(image, sign * bright, np.eye(2, 3), 0.1))
        assert (after[6:10, 6:10] == expected).all()


def test_a_face_smaller_than_the_models_gets_the_mean_of_the_difference():
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 100.0
    board = np.repeat(checks[..., None], 3, axis=2).astype(np.float32)
    to_source = scaled(np.eye(2, 3), 16, 64)
    after = np.asarray(put_back(Image.new("RGB", (16, 16)), board, to_source, 0.1))
    assert np.abs(after[4:12, 4:12].astype(int) - 50).max() <= 2


def test_memory_does_not_grow_with_the_photo_and_bands_have_no_seam():
    ramp = np.linspace(0, 100, 16, dtype=np.float32)[:, None, None] * np.ones((1, 16, 3), "f4")
    image = Image.new("RGB", (20, 1200), (50, 50, 50))
    after = np.asarray(put_back(image, ramp, np.array([[1.0, 0, 2], [0, 70.0, 10]]), 0.1))
    steps = np.diff(after[200:1000, 10, 0].astype(int))
    assert set(steps.tolist()) <= {0, 1}
    assert steps.sum() > 50


def test_the_window_is_smooth_and_zero_at_the_border():
    places = np.linspace(-0.2, 1.2, 1401)
    weights = window(places, 0.25)
    assert (weights[(places <= 0) | (places >= 1)] == 0).all()
    np.testing.assert_allclose(weights[(places > 0.2501) & (places < 0.7499)], 1)
    assert np.abs(np.diff(weights)).max() < 0.0061


def photo_of(mode: str) -> Photo:
    beside = {"icc_profile": PROFILE, "exif": exif().tobytes(), "dpi": (300, 300)}
    return Photo(Image.fromarray(SAMPLES[mode]), beside, "PNG")


@pytest.mark.parametrize("mode", SAMPLES)
@pytest.mark.parametrize("file_format", ["png", "tiff", "webp", "jpeg"])
def test_a_saved_photo_is_the_photo_but_for_what_is_said(tmp_path, mode, file_format):
    photo = photo_of(mode)
    path = tmp_path / "photo"
    save_photo(photo, photo.image, str(path), file_format, None)
    lost = losses(photo, file_format, None)
    with Image.open(path) as saved:
        assert saved.info["icc_profile"] == PROFILE
        assert saved.getexif()[0x010F] == "Maker"
        assert saved.getexif().get_ifd(0x8825)[1] == "N"
        pixels = np.asarray(saved if file_format != "webp" else saved.convert("RGBA"))
        found = saved.mode
    if file_format in ("png", "tiff"):
        assert (found, lost) == (mode, [])
        np.testing.assert_array_equal(pixels, SAMPLES[mode])
    elif file_format == "webp" and mode != "I;16":
        assert not any("pixels" in each for each in lost)
        np.testing.assert_array_equal(pixels, np.asarray(photo.image.convert("RGBA")))
    else:
        assert lost
    assert any("16 bits" in each for each in lost) == (
        mode == "I;16" and file_format in ("webp", "jpeg")
    )
    assert any(each.startswith("alpha") for each in lost) == (
        mode in ("LA", "RGBA") and file_format == "jpeg"
    )
    assert [*tmp_path.iterdir()] == [path]


def test_a_profile_of_grey_is_not_given_to_colours(tmp_path):
    photo = Photo(Image.fromarray(SAMPLES["L"]), {"icc_profile": b"x" * 16 + b"GRAY"}, "PNG")
    assert "the ICC profile of grey: webp has colours only" in losses(photo, "webp", None)
    save_photo(photo, photo.image, str(tmp_path / "photo"), "webp", None)
    with Image.open(tmp_path / "photo") as saved:
        assert "icc_profile" not in saved.info
    assert losses(photo, "png", None) == []


def test_a_format_that_is_too_small_for_the_photo_is_refused():
    photo = Photo(Image.new("L", (16_384, 16)), {}, "PNG")
    check_format(photo, "png", "wide.png")
    with pytest.raises(UserError, match=r"wide\.png has 16384x16 pixels, and webp holds 16383"):
        check_format(photo, "webp", "wide.png")
