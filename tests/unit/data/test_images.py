"""Reading any image file safely, and our own JPEGs exactly."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from facevae.data.images import MAX_PIXELS, BadImageError, decode_image, decode_jpegs, encode_jpeg

pillow_heif.register_heif_opener()  # Pillow writes HEIC for these tests; nothing here reads by it

WIDTH, HEIGHT = 40, 48
LOSSLESS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "webp": ("WEBP", {"lossless": True}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "tiff_lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "jp2": ("JPEG2000", {"irreversible": False}),
    "j2k": ("JPEG2000", {"no_jp2": True}),
    "ppm": ("PPM", {}),
}
LOSSY: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {"quality": 95}),
    "progressive": ("JPEG", {"quality": 95, "progressive": True}),
    "lossy_webp": ("WEBP", {"quality": 95}),
    "gif": ("GIF", {}),
    "avif": ("AVIF", {"quality": 90}),
    "heic": ("HEIF", {"quality": 90}),
    "mpo": ("MPO", {"quality": 95}),
    "lossy_jp2": ("JPEG2000", {"quality_layers": [10], "irreversible": True}),
}


def smooth_image() -> Image.Image:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return Image.fromarray(np.stack([x * 6, y * 5, x + y], axis=-1).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def distance(image: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(image).astype(int) - np.asarray(other).astype(int)).mean())


def png_of_size(width: int, height: int) -> bytes:
    """A valid header and next to no pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_keep_every_pixel(name: str) -> None:
    kind, options = LOSSLESS[name]
    assert distance(decode_image(saved(smooth_image(), kind, **options)), smooth_image()) == 0


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_formats_come_close(name: str) -> None:
    kind, options = LOSSY[name]
    image = decode_image(saved(smooth_image(), kind, **options))
    assert image.mode == "RGB"
    assert distance(image, smooth_image()) < 6


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_bilevel_and_palette_become_rgb(mode: str) -> None:
    image = smooth_image().convert(mode)
    assert distance(decode_image(saved(image, "PNG")), image.convert("RGB")) == 0


def test_cmyk_becomes_rgb() -> None:
    cmyk = smooth_image().convert("CMYK")
    assert distance(decode_image(saved(cmyk, "JPEG", quality=95)), smooth_image()) < 6
    assert distance(decode_image(saved(cmyk, "TIFF")), smooth_image()) == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_transparency_shows_white_and_opaque_pixels_stay(mode: str) -> None:
    grey_left = Image.new("RGB", (WIDTH, HEIGHT), (0, 0, 0))
    grey_left.paste((204, 204, 204), (0, 0, WIDTH // 2, HEIGHT))
    options: dict[str, Any] = {}
    if mode in {"RGBA", "LA"}:  # black, and transparent where black
        image = grey_left.convert(mode)
        image.putalpha(grey_left.convert("L").point(lambda v: 255 if v else 0))
    else:
        image = grey_left.convert(mode)
        options = {"transparency": image.getpixel((WIDTH - 1, 0))}
    pixels = np.asarray(decode_image(saved(image, "PNG", **options)))
    assert (pixels[:, : WIDTH // 2] == 204).all()
    assert (pixels[:, WIDTH // 2 :] == 255).all()


def test_half_transparent_is_mixed_with_white() -> None:
    image = Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 128))
    assert (np.abs(np.asarray(decode_image(saved(image, "PNG"))).astype(int) - 127) <= 1).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    pixels = np.asarray(decode_image(saved(Image.fromarray(ramp), kind)))
    assert pixels.shape == (64, 64, 3)
    np.testing.assert_array_equal(pixels[..., 0], np.rint(ramp / 257))
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


def test_big_endian_16_bit_tiff_is_read_like_any_other() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(">u2").reshape(64, 64)
    image = Image.frombytes("I;16B", (64, 64), ramp.tobytes())
    pixels = np.asarray(decode_image(saved(image, "TIFF")))
    np.testing.assert_array_equal(pixels[..., 1], np.rint(ramp / 257))


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.full((32, 32), 70_000, np.int32), "32-bit samples"),
        (np.full((32, 32), -1, np.int32), "32-bit samples"),
        (np.full((32, 32), 0.5, np.float32), "floating-point samples"),
    ],
)
def test_samples_of_unknown_range_are_refused(samples: np.ndarray, reason: str) -> None:
    with pytest.raises(BadImageError, match=reason):
        decode_image(saved(Image.fromarray(samples), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("white", "black", "red")]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert (np.asarray(decode_image(data)) > 250).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    top_left = Image.new("RGB", (WIDTH, HEIGHT), "black")
    top_left.paste("white", (0, 0, WIDTH // 2, HEIGHT // 2))
    pixels = np.asarray(decode_image(saved(top_left, "PNG", exif=exif)))
    height, width, _ = pixels.shape
    assert (width, height) == ((WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH))
    # EXIF 2.3: where row 0, column 0 of the file is to be seen.
    bottom = orientation in {3, 4, 7, 8}
    right = orientation in {2, 3, 6, 7}
    corner = pixels[-1 if bottom else 0, -1 if right else 0]
    assert (corner == 255).all()
    assert (pixels == 255).all(axis=-1).mean() == 0.25


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "^empty file$"),
        (b"\x89PNG\r\n\x1a\n", "^truncated$"),
        (b"<html>404 Not Found</html>", "^not an image$"),
        (bytes(1000), "^not an image$"),
        (saved(smooth_image(), "TGA"), "^not an image$"),  # a format that we do not allow
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "^not an image$"),
        (saved(smooth_image().resize((15, 40)), "PNG"), "^too small: 15x40$"),
        (png_of_size(30_000, 30_000), "^too large: 30000x30000$"),
        (png_of_size(60_000, 60_000), "^too large: 60000x60000$"),
        (png_of_size(10_000, 10_000), "^too large: 10000x10000$"),  # Pillow would only warn
        (png_of_size(MAX_PIXELS // 16 + 1, 16), "^too large: 4000001x16$"),
        (png_of_size(7_999, 8_000), "^truncated$"),  # below the limit: judged by its pixels
    ],
)
def test_bad_files_have_a_short_reason(
    data: bytes, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadImageError, match=reason):
        decode_image(data)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("brands", [b"heic", b"mif1----heic", b"msf1----mif1hevc", b"heix----miaf"])
def test_a_heic_is_known_by_any_of_its_brands_and_broken_ones_are_bad(brands: bytes) -> None:
    header = b"ftyp" + brands
    data = (len(header) + 4).to_bytes(4, "big") + header + bytes(100)
    with pytest.raises(BadImageError, match=r"^corrupt: "):
        decode_image(data)


def test_the_primary_image_of_a_heic_is_read_whichever_place_it_has() -> None:
    file = pillow_heif.HeifFile()
    for colour in ("black", "white", "black"):
        file.add_from_pillow(Image.new("RGB", (WIDTH, HEIGHT), colour))
    buffer = io.BytesIO()
    file.save(buffer, primary_index=1)
    assert (np.asarray(decode_image(buffer.getvalue())) > 250).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_is_turned_once(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    top_left = Image.new("RGB", (WIDTH, HEIGHT), "black")
    top_left.paste("white", (0, 0, WIDTH // 2, HEIGHT // 2))
    upright = decode_image(saved(top_left, "PNG", exif=exif))
    top_left.getexif()[0x0112] = orientation
    data = saved(top_left, "HEIF")  # as telephones do: turned by the file, and EXIF says so too
    assert (b"irot" in data or b"imir" in data) == (orientation > 1)
    assert exif.tobytes()[-18:] in data
    assert distance(decode_image(data), upright) < 2


def test_a_heic_of_ten_bits_keeps_its_brightness() -> None:
    deep = np.asarray(smooth_image()).astype(np.uint16) * 257
    buffer = io.BytesIO()
    pillow_heif.encode("RGB;16", (WIDTH, HEIGHT), deep.tobytes(), buffer, quality=90)
    assert pillow_heif.open_heif(buffer.getvalue()).info["bit_depth"] == 10
    assert distance(decode_image(buffer.getvalue()), smooth_image()) < 6


def test_a_transparent_heic_shows_white() -> None:
    image = Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 0))
    assert (np.asarray(decode_image(saved(image, "HEIF"))) > 250).all()


def test_a_heic_that_says_it_is_huge_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(saved(smooth_image(), "HEIF"))
    at = data.index(b"ispe") + 8
    while data[at - 8 : at - 4] == b"ispe":
        data[at : at + 8] = struct.pack(">II", 9_000, 9_000)
        at = data.find(b"ispe", at) + 8
    monkeypatch.setattr(pillow_heif.HeifFile, "to_pillow", None)
    with pytest.raises(BadImageError, match=r"^too large: 9000x9000$"):
        decode_image(bytes(data))


@pytest.mark.parametrize("name", [*LOSSLESS, *LOSSY])
@pytest.mark.filterwarnings("error")
def test_a_truncated_file_is_bad_wherever_it_ends(name: str) -> None:
    kind, options = (LOSSLESS | LOSSY)[name]
    data = saved(smooth_image(), kind, **options)
    for end in range(1, int(len(data) * 0.8), max(1, len(data) // 60)):
        with pytest.raises(BadImageError):
            decode_image(data[:end])


@pytest.mark.parametrize("name", [*LOSSLESS, *LOSSY])
@pytest.mark.filterwarnings("error")
def test_flipped_bytes_give_an_image_or_bad_image_error(name: str) -> None:
    kind, options = (LOSSLESS | LOSSY)[name]
    rng = np.random.default_rng(0)
    good = np.frombuffer(saved(smooth_image(), kind, **options), np.uint8)
    reasons = []
    for _ in range(100):
        data = good.copy()
        data[rng.integers(0, min(len(data), 200), 3)] = rng.integers(0, 256, 3)
        try:
            assert decode_image(data.tobytes()).mode == "RGB"
        except BadImageError as error:
            reasons.append(str(error))
    assert reasons
    assert all("\n" not in reason and len(reason) < 120 for reason in reasons)


def test_stored_jpegs_are_444_deterministic_and_close() -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    data = encode_jpeg(noise)
    assert data == encode_jpeg(noise.copy())
    assert distance(decode_image(data), noise) < 8  # 4:2:0 would lose half of the colour noise
    assert len(encode_jpeg(noise, quality=50)) < len(data)


def test_decode_jpegs_equals_pillow_pixel_for_pixel() -> None:
    images = [smooth_image(), smooth_image().rotate(180), Image.new("RGB", (WIDTH, HEIGHT), "red")]
    stored = [encode_jpeg(image) for image in images]
    pixels = decode_jpegs(stored)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.stack([np.asarray(decode_image(d)) for d in stored]))


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (encode_jpeg(smooth_image().resize((24, 24))), "image 1 of 2 has 24x24 pixels.*40x48"),
        (encode_jpeg(smooth_image().resize((80, 80))), "image 1 of 2 has 80x80 pixels.*40x48"),
        (encode_jpeg(smooth_image().rotate(90, expand=True)), "image 1 of 2 has 48x40"),
        (encode_jpeg(smooth_image())[:700], "image 1 of 2 cannot be decoded"),
        (b"", "image 1 of 2 is not a JPEG"),
        (saved(smooth_image(), "PNG"), "image 1 of 2 is not a JPEG"),
    ],
)
def test_decode_jpegs_names_the_odd_one(odd: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_jpegs([encode_jpeg(smooth_image()), odd])


def test_a_stored_image_that_says_it_is_huge_takes_no_memory():
    jpeg = bytearray(encode_jpeg(Image.new("RGB", (64, 64))))
    size = jpeg.index(b"\xff\xc0") + 5
    jpeg[size : size + 4] = b"\xff\xdc" * 2
    with pytest.raises(BadImageError, match="too large: 65500x65500"):
        decode_jpegs([bytes(jpeg)])
