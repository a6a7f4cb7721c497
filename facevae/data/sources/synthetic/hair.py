"""Draws hair behind and in front of the head, bangs, and hats."""

import numpy as np
from PIL import Image

from facevae.data.sources.synthetic.canvas import (
    Canvas,
    Path,
    Points,
    ellipse,
    mirrored,
    mix,
    moved,
    shade,
    smooth,
)
from facevae.data.sources.synthetic.portrait import Portrait


def draw_hair_back(canvas: Canvas, p: Portrait) -> None:
    """Draws long hair behind the neck."""
    if "Bald" in p.has or not p.hair.long:
        return
    h = p.hair
    side = _wave([(p.head.temple + 2, -30), (h.spread - 2, 10), (h.spread, h.length)], p)
    outline = mirrored(np.concatenate([[(0, -50)], side, [(0, h.length)]]))
    canvas.fill(outline, shade(p.palette.hair, 0.66))


def draw_hair_sides(canvas: Canvas, p: Portrait) -> None:
    """Draws locks in front of the shoulders and ears; the head is drawn over their inner edge."""
    if "Bald" in p.has or not p.hair.long:
        return
    h, t, hair = p.hair, p.head.temple, p.palette.hair
    outer = _wave(
        [(t + 2 + 0.5 * h.volume, -28), (0.5 * (t + h.spread) + 4, 8), (h.spread + 1, 36),
         (h.spread, h.length)], p)  # fmt: skip
    inner = np.array([(h.spread - 21, h.length + 1), (27, 50), (28, 30), (t - 10, -10)])
    if "Straight_Hair" not in p.has and "Wavy_Hair" not in p.has:
        inner[0] = (h.spread - 16, h.length + 4)
    for side in (-1, 1):
        lock = np.concatenate([outer, inner]) * (side, 1)
        canvas.fill(lock, shade(hair, 0.92))
        _draw_strands(canvas, p, side)


def _wave(points: Path, p: Portrait) -> Points:
    curve = smooth(points, closed=False)
    if "Wavy_Hair" in p.has:
        curve[:, 0] += 4.0 * np.sin(curve[:, 1] / 3.6)
    return curve


def _draw_strands(canvas: Canvas, p: Portrait, side: int) -> None:
    h, hair = p.hair, p.palette.hair
    y = np.linspace(-10, h.length - 4, 14)
    sheen = 190 if "Young" in p.has else 70
    for i, shift in enumerate((-5.0, -10.0, -15.0)):
        x = np.interp(y, (-10, 36, h.length), (p.head.temple + 3, h.spread, h.spread)) + shift
        if "Wavy_Hair" in p.has:
            x += 2.6 * np.sin(y / 3.6)
        colour = mix(hair, (255, 244, 226), 0.36) if i == 1 else shade(hair, 0.62)
        line = np.column_stack([side * x, y])
        if "Straight_Hair" in p.has or "Wavy_Hair" in p.has:
            canvas.stroke(line, colour, 1.8 if i == 1 else 1.2, sheen if i == 1 else 180)


def draw_hair_front(canvas: Canvas, p: Portrait) -> None:
    """Draws the hair on the skull down to the hairline, and bangs."""
    if "Bald" in p.has:
        return
    h, head, c = p.hair, p.head, p.palette
    t, v = head.temple, h.volume
    outer = smooth(
        [(t + 1.5 + 0.2 * v, 6 if h.long else 0), (t + 2.5 + 0.4 * v, -22),
         (0.86 * t + 0.6 * v, -0.74 * head.top - 0.3 * v), (0.46 * t, -head.top - 0.85 * v),
         (0, -head.top - v)], False)  # fmt: skip
    outer = np.concatenate([outer, (outer * (-1, 1))[::-1][1:]])
    if "Wavy_Hair" in p.has:
        for x, y in outer[2:-2:5]:
            canvas.fill(ellipse(x * 0.98, y * 0.98, 8.6, 8.0), shade(c.hair, 0.94))
    cap = np.concatenate([outer, _hairline(p)])
    canvas.stroke(moved(cap[len(outer) :], 0, 1), p.palette.skin_shadow, 4, 150)
    canvas.fill(cap, c.hair)
    _draw_top_texture(canvas, p, canvas.clip(cap))
    if "Bangs" in p.has:
        _draw_bangs(canvas, p)


def _hairline(p: Portrait) -> Points:
    """Returns the hairline from the left temple to the right one."""
    t, part = p.head.temple, 14 * p.hair.parting
    if "Receding_Hairline" in p.has:
        return smooth([(-t + 1, 0), (-t + 2, -16), (-0.80 * t, -36), (-0.56 * t, -54), (-9, -51),
                       (0, -44), (9, -51), (0.56 * t, -54), (0.80 * t, -36), (t - 2, -16),
                       (t - 1, 0)], False)  # fmt: skip
    side = -22 if p.hair.long else -19
    return smooth([(-t + 1, 2), (-t + 4, -12), (-0.72 * t, side - 8), (-0.4 * t + 0.4 * part, -36),
                   (part, -42), (0.4 * t + 0.4 * part, -36), (0.72 * t, side - 8), (t - 4, -12),
                   (t - 1, 2)], False)  # fmt: skip


def _draw_top_texture(canvas: Canvas, p: Portrait, cap: Image.Image) -> None:
    h, head, c = p.hair, p.head, p.palette
    sheen = 0.75 if "Young" in p.has else 0.2
    light = mix(c.hair, (255, 244, 226), 0.5)
    x = -15.0 if p.pose.light < 0 else 15.0
    canvas.glow((x, -head.top - 0.1 * h.volume), (18, 9), light, sheen, within=cap)
    part = 14 * h.parting
    dark = shade(c.hair, 0.66)
    for end in (-30.0, -18.0, 18.0, 30.0):
        top = -head.top - 0.6 * h.volume
        strand = smooth([(part, top), (0.6 * end + 0.4 * part, -head.top + 2),
                         (end, -0.72 * head.top)], False)  # fmt: skip
        canvas.stroke(strand, dark, 0.9, 130)


def _draw_bangs(canvas: Canvas, p: Portrait) -> None:
    t, c = p.head.temple, p.palette
    bottom = [(-t + 3, -9), (-26, -14), (-20, -18), (-13, -13), (-7, -17.5), (0, -13), (7, -17.5),
              (13, -13), (20, -18), (26, -14), (t - 3, -9)]  # fmt: skip
    top = smooth([(t - 1, -24), (t - 5, -40), (20, -53), (0, -57), (-20, -53), (-t + 5, -40),
                  (-t + 1, -24)], False)  # fmt: skip
    fringe = np.concatenate([np.array(bottom), top])
    canvas.fill(moved(fringe * (1, 0.97), 0, 2.2), c.skin_shadow, 170, depth=0.6)
    canvas.fill(fringe, shade(mix(c.hair, (120, 86, 64), 0.12), 0.81), depth=0.6)
    for x in (-24, -13, 0, 13, 24):
        strand = np.array([(0.6 * x, -50), (0.95 * x, -34), (x, -18)])
        canvas.stroke(strand, shade(c.hair, 0.66), 1.0, 150, depth=0.6)


def draw_hat(canvas: Canvas, p: Portrait) -> None:
    """Draws a knitted cap, a peaked cap or a brimmed hat, above any bangs."""
    if "Wearing_Hat" not in p.has:
        return
    c, t, top = p.palette, p.head.temple, p.head.top
    hat, band = c.hat, mix(c.hat, (255, 246, 226), 0.72)
    crown = smooth([(-t - 4, -32), (-t - 4, -46), (-0.74 * t, -top - 9), (0, -top - 17),
                    (0.74 * t, -top - 9), (t + 4, -46), (t + 4, -32), (0, -36)])  # fmt: skip
    canvas.fill(crown, hat)
    canvas.glow((-16 * np.sign(-p.pose.light or 1), -62), (20, 15), (255, 255, 255), 0.45)
    if p.hat_style == 0:
        fold = smooth(
            [(-t - 6, -30), (-t - 5, -45), (0, -51), (t + 5, -45), (t + 6, -30), (0, -36)]
        )
        canvas.fill(fold, band)
        for x in np.linspace(-t, t, 11):
            canvas.stroke(np.array([(x, -34), (0.96 * x, -45)]), shade(band, 0.8), 0.9)
        canvas.fill(ellipse(0, -top - 18, 8, 7), band)
    elif p.hat_style == 1:
        strip = smooth(
            [(-t - 4, -34), (-t - 4, -42), (0, -47), (t + 4, -42), (t + 4, -34), (0, -39)]
        )
        canvas.fill(strip, band)
        visor = smooth([(-t - 1, -34), (0, -42), (t + 1, -34), (0.7 * t, -28), (0, -26),
                        (-0.7 * t, -28)], True)  # fmt: skip
        canvas.fill(visor, shade(hat, 0.72))
    else:
        strip = smooth(
            [(-t - 4, -36), (-t - 4, -47), (0, -52), (t + 4, -47), (t + 4, -36), (0, -40)]
        )
        canvas.fill(strip, band)
        brim = smooth([(-t - 24, -33), (-t, -40), (0, -43), (t, -40), (t + 24, -33), (t, -29),
                       (0, -31), (-t, -29)])  # fmt: skip
        canvas.fill(brim, shade(hat, 0.84))
