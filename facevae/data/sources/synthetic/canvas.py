"""A supersampled canvas in face coordinates: smooth outlines, soft glows, strokes."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Num
from PIL import Image, ImageChops, ImageDraw

IMAGE_WIDTH, IMAGE_HEIGHT = 178, 218
SUPERSAMPLING = 2

Colour = tuple[int, int, int]
Points = Num[np.ndarray, "_ 2"]
Number = float | int  # beartype, unlike mypy, does not take an int for a float
Path = Points | Sequence[tuple[Number, Number]]

_SAMPLES = 6
_T = (np.arange(_SAMPLES) / _SAMPLES)[:, None]
# Catmull-Rom weights of the four points around a segment, one row per sample.
_CATMULL_ROM = 0.5 * np.hstack(
    [
        -_T + 2 * _T**2 - _T**3,
        2 - 5 * _T**2 + 3 * _T**3,
        _T + 4 * _T**2 - 3 * _T**3,
        -(_T**2) + _T**3,
    ]
)
_ANGLES = np.linspace(0, 2 * np.pi, 28, endpoint=False)
UNIT_CIRCLE = np.column_stack([np.cos(_ANGLES), np.sin(_ANGLES)])


def smooth(points: Path, closed: bool = True) -> Points:
    """Returns a smooth curve through `points` (Catmull-Rom, 6 samples a segment)."""
    p = np.asarray(points, dtype=float)
    padded = np.concatenate([p[-1:], p, p[:2]] if closed else [p[:1], p, p[-1:]])
    segments = len(padded) - 3
    quads = padded[np.arange(segments)[:, None] + np.arange(4)]  # segment, 4, 2
    curve = (_CATMULL_ROM @ quads).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-1:]])


def ribbon(centreline: Points, widths: Number | Num[np.ndarray, "_"]) -> Points:
    """Returns the outline of a band around `centreline`; `widths` is full width, per point."""
    half = np.asarray(widths, dtype=float)[..., None] / 2
    tangent = np.empty_like(centreline)
    tangent[1:-1] = centreline[2:] - centreline[:-2]
    tangent[0], tangent[-1] = centreline[1] - centreline[0], centreline[-1] - centreline[-2]
    normal = tangent[:, ::-1] * (1.0, -1.0) / np.hypot(tangent[:, :1], tangent[:, 1:])
    return np.concatenate([centreline + normal * half, (centreline - normal * half)[::-1]])


def ellipse(x: Number, y: Number, rx: Number, ry: Number) -> Points:
    """Returns the outline of an ellipse."""
    return UNIT_CIRCLE * (rx, ry) + (x, y)


def moved(points: Points, x: Number, y: Number) -> Points:
    """Returns the points shifted by (x, y)."""
    shifted: Points = points + np.array([x, y])
    return shifted


def mirrored(right: Path) -> Points:
    """Returns a left-right symmetric outline from its right half, listed along the outline.

    Points on the axis (x = 0) do not appear twice.
    """
    p = np.asarray(right, dtype=float)
    return np.concatenate([p, (p[p[:, 0] != 0] * (-1.0, 1.0))[::-1]])


def mix(a: Colour, b: Colour, share: Number) -> Colour:
    """Returns `a` blended towards `b`; share 0 is `a`, 1 is `b`."""
    r, g, bl = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return r, g, bl


def shade(colour: Colour, factor: Number) -> Colour:
    """Returns `colour` times `factor`, within 0..255."""
    r, g, b = (min(255, max(0, round(c * factor))) for c in colour)
    return r, g, b


@lru_cache(maxsize=1)
def _round_glow() -> Image.Image:
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    falloff = np.clip(1 - x**2 - y**2, 0, 1) ** 1.5
    return Image.fromarray((falloff * 255).astype(np.uint8))


@lru_cache(maxsize=1024)
def _glow_mask(width: int, height: int, strength: int) -> Image.Image:
    levels = [round(level * strength / 255) for level in range(256)]
    resized = _round_glow().resize((width, height), Image.Resampling.BILINEAR)
    return resized.point(levels)


class Canvas:
    """Paints in face coordinates: origin between the eyes, x right, y down, in output pixels.

    `depth` says how far a part stands in front of the head's axis: a turned head (yaw) shifts
    it sideways by yaw * depth pixels.
    """

    def __init__(
        self,
        background: Colour,
        centre: tuple[Number, Number],
        scale: Number,
        roll: Number,
        yaw: Number,
    ):
        size = (IMAGE_WIDTH * SUPERSAMPLING, IMAGE_HEIGHT * SUPERSAMPLING)
        self.image = Image.new("RGB", size, background)
        self._draw = ImageDraw.Draw(self.image, "RGBA")
        cos, sin = np.cos(roll), np.sin(roll)
        self._scale = SUPERSAMPLING * scale
        self._matrix = self._scale * np.array([[cos, sin], [-sin, cos]])
        self._centre = np.array(centre) * SUPERSAMPLING
        self._yaw_step = self._matrix[0] * yaw

    def fill(self, outline: Points, colour: Colour, alpha: int = 255, depth: Number = 0) -> None:
        """Fills an outline."""
        self._draw.polygon(self._place(outline, depth), fill=(*colour, alpha))

    def stroke(
        self, line: Points, colour: Colour, width: Number, alpha: int = 255, depth: Number = 0
    ) -> None:
        """Draws a line of constant width."""
        pixels = max(1, round(width * self._scale))
        self._draw.line(self._place(line, depth), (*colour, alpha), pixels, "curve")

    def clip(self, outline: Points, depth: Number = 0) -> Image.Image:
        """Returns an outline's mask, for `glow(within=...)`."""
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).polygon(self._place(outline, depth), fill=255)
        return mask

    def glow(
        self,
        centre: tuple[Number, Number],
        radii: tuple[Number, Number],
        colour: Colour,
        strength: Number,
        depth: Number = 0,
        within: Image.Image | None = None,
    ) -> None:
        """Paints a soft spot that fades to nothing at `radii`; strength 0..1 at its centre."""
        # Sizes are rounded so that the few masks in use stay cached.
        w, h = (4 * max(1, round(r * self._scale / 2)) for r in radii)
        x, y = self._place(np.array([centre]), depth)
        left, top = round(x - w / 2), round(y - h / 2)
        mask = _glow_mask(w, h, 8 * round(strength * 31))
        if within is not None:
            mask = ImageChops.multiply(mask, within.crop((left, top, left + w, top + h)))
        self.image.paste(colour, (left, top, left + w, top + h), mask)

    def finished(self) -> Image.Image:
        """Returns the picture at its output size."""
        return self.image.reduce(SUPERSAMPLING)

    def _place(self, points: Points, depth: Number) -> list[float]:
        placed = points @ self._matrix + (self._centre + depth * self._yaw_step)
        flat: list[float] = placed.ravel().tolist()
        return flat
