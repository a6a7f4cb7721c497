"""A folder of photographs of all kinds, made of the one portrait that scikit-image brings along."""

import io
from functools import cache
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image
from skimage import data

FACE_BOX = (177, 63, 271, 195)
"""where MTCNN finds the portrait's face, about"""
LARGE = (8000, 5000)


@cache
def portrait(size: int = 256) -> Image.Image:
    """An astronaut, square."""
    return Image.fromarray(data.astronaut()).resize((size, size), Image.Resampling.LANCZOS)


def background(width: int, height: int) -> Image.Image:
    """Smooth colours, in which there is no face."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    planes = [90 + 60 * x / width, 120 + 40 * y / height, 150 - 50 * (x + y) / (width + height)]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def placed(size: tuple[int, int], *places: tuple[int, int, int]) -> Image.Image:
    """Portraits (left, top, side) on a background."""
    page = background(*size)
    for left, top, side in places:
        page.paste(portrait(side), (left, top))
    return page


def turned(angle: float, size: int = 256) -> Image.Image:
    """The portrait turned anticlockwise."""
    return portrait(size).rotate(angle, Image.Resampling.BICUBIC, fillcolor=(120, 120, 120))


def at_border(left: float, top: float, right: float, bottom: float) -> Image.Image:
    """The portrait cut so that its face is so many of its own widths from each border."""
    x0, y0, x1, y1 = FACE_BOX
    side = x1 - x0
    box = (x0 - left * side, y0 - top * side, x1 + right * side, y1 + bottom * side)
    return portrait(512).crop(tuple(int(edge) for edge in box))


def encoded(image: Image.Image, form: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


def write_photographs(folder: Path) -> dict[str, str]:
    """Write 80 files; returns the status that each should get, by name."""
    files: dict[str, tuple[bytes, str]] = {}

    def add(name: str, image: Image.Image, status: str = "ok", form: str = "PNG", **more) -> None:
        files[name] = (encoded(image, form, **more), status)

    for size in (64, 96, 128, 160, 200, 256, 320, 400, 512, 640):  # 10 sizes
        add(f"sizes/{size}.jpg", portrait(size), form="JPEG", quality=95)
    for angle in range(-30, 31, 6):  # 11 angles
        add(f"angles/{angle:+03d}.png", turned(angle))
    for i, place in enumerate([(0, 0), (172, 0), (344, 0), (0, 172), (172, 172), (344, 172)]):
        add(f"places/{i}.jpg", placed((600, 428), (*place, 256)), form="JPEG")
    edges = [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0), (0, 0, 1, 1), (1, 1, 0, 0),
             (0.1, 0.1, 0.1, 0.1)]  # fmt: skip
    for i, edge in enumerate(edges):
        add(f"borders/{i}.png", at_border(*edge))
    for i, small in enumerate((96, 128, 160, 192, 256)):
        add(f"two/{i}.png", placed((560, 256), (0, 0, 256), (300, 0, small)))
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (200, 240, 3), np.uint8)
    add("none/noise.png", Image.fromarray(noise), "no_face")
    add("none/soft.png", Image.fromarray(noise[:20, :24]).resize((240, 200)), "no_face")
    for i, size in enumerate([(300, 200), (200, 300), (64, 400), (2000, 1500)]):
        add(f"none/{i}.jpg", background(*size), "no_face", "JPEG")
    add("none/black.bmp", Image.new("RGB", (120, 90)), "no_face", "BMP")
    grey = portrait().convert("L")
    add("kinds/grey.png", grey)
    add("kinds/grey_alpha.png", portrait().convert("LA"))
    add("kinds/rgba.png", portrait().convert("RGBA"))
    add("kinds/palette.gif", portrait().convert("P", palette=Image.Palette.ADAPTIVE), form="GIF")
    add("kinds/cmyk.jpg", portrait().convert("CMYK"), form="JPEG", quality=95)
    add("kinds/16_bit.png", Image.fromarray(np.asarray(grey).astype(np.uint16) * 257))
    add("kinds/16_bit.tif", Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), form="TIFF")
    for form in ("WEBP", "AVIF", "JPEG2000", "BMP"):
        ending = {"JPEG2000": "jp2"}.get(form, form.lower())
        add(f"kinds/{form.lower()}.{ending}", portrait(), form=form)
    for orientation in range(2, 9):  # 7 ways to hold a camera
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = portrait().transpose(_HELD[orientation])
        add(f"held/{orientation}.jpg", stored, form="JPEG", exif=exif)
    more = {"save_all": True, "append_images": [background(256, 256)]}
    add("several/mpo.jpg", portrait(), form="MPO", **more)
    add("several/animated.gif", portrait(), form="GIF", **more)
    add("several/animated.webp", portrait(), form="WEBP", **more)
    add("several/animated.png", portrait(), **more)
    heic = io.BytesIO()
    pillow_heif.from_pillow(portrait()).save(heic, quality=90)
    files["telephone/IMG_0001.HEIC"] = (heic.getvalue(), "ok")
    files["telephone/renamed.jpg"] = files["telephone/IMG_0001.HEIC"]
    add("large/40_megapixels.jpg", placed(LARGE, (2500, 1000, 3000)), form="JPEG", quality=80)
    add("large/tall.jpg", placed((1200, 4000), (100, 1800, 1000)), form="JPEG", quality=80)
    whole = files["sizes/256.jpg"][0]
    files["broken/half.jpg"] = (whole[: len(whole) // 2], "unreadable")
    files["broken/empty.jpg"] = (b"", "unreadable")
    files["broken/text.png"] = (b"not an image", "unreadable")
    files["broken/noise.jpg"] = (rng.bytes(5000), "unreadable")
    files["broken/vector.svg"] = (b"<svg/>", "unreadable")
    files["broken/float.tif"] = (encoded(grey.convert("F"), "TIFF"), "unreadable")
    add("small/icon.png", portrait(10), "too_small")
    add("small/strip.png", background(18, 300), "too_small")
    for name, (content, _) in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "notes.txt").write_text("no image\n")
    return {name: status for name, (_, status) in sorted(files.items())}


_TRANSPOSE = Image.Transpose
# What a camera stores that is held so: the inverse of what a viewer has to do.
_HELD = {
    2: _TRANSPOSE.FLIP_LEFT_RIGHT,
    3: _TRANSPOSE.ROTATE_180,
    4: _TRANSPOSE.FLIP_TOP_BOTTOM,
    5: _TRANSPOSE.TRANSPOSE,
    6: _TRANSPOSE.ROTATE_90,
    7: _TRANSPOSE.TRANSVERSE,
    8: _TRANSPOSE.ROTATE_270,
}
