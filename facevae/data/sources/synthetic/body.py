"""Draws everything around the features: background, neck, clothing, ears, head, jewellery."""

import numpy as np

from facevae.data.sources.synthetic.canvas import (
    Canvas,
    Points,
    ellipse,
    mirrored,
    mix,
    moved,
    shade,
    smooth,
)
from facevae.data.sources.synthetic.portrait import Head, Portrait

_EAR_DEPTH = -0.6


def draw_background(canvas: Canvas, p: Portrait) -> None:
    """Draws soft discs and a halo, shifted towards the light."""
    c = p.palette
    for i in range(2):
        x, y = p.specks[i]
        canvas.fill(
            ellipse(110 * x, 50 * y - 20, 34 + 14 * p.specks[i + 2, 0], 34), c.background_shape, 90
        )
    canvas.glow((16 * p.pose.light, -16), (80, 84), (255, 255, 255), 0.32)


def draw_neck(canvas: Canvas, p: Portrait) -> None:
    """Draws neck and upper chest, in the shadow of the chin."""
    c, neck = p.palette, p.head.neck
    skin = shade(c.skin, 0.93)
    outline = smooth(
        mirrored([(neck - 1, 20), (neck, 48), (neck + 4, 62), (neck + 30, 72), (neck + 30, 110)])
    )
    canvas.fill(outline, skin)
    canvas.glow((0, p.head.chin), (neck + 12, 15), c.skin_shadow, 0.9, within=canvas.clip(outline))
    if "Male" in p.has:
        canvas.fill(ellipse(0, p.head.chin + 8, 3, 2.4), c.skin_shadow, 110)


def draw_clothing(canvas: Canvas, p: Portrait) -> None:
    """Draws a jacket with shirt and tie, a collared shirt, or a round neckline."""
    c, neck = p.palette, p.head.neck
    broad = 1.0 if "Male" in p.has else 0.0
    slope = [(46 + 8 * broad, 73 - 8 * broad), (72 + 12 * broad, 90 - 14 * broad)]
    shoulders = [(neck + 9, 66 - 5 * broad), *slope, (84 + 20 * broad, 125)]
    if "Wearing_Necktie" in p.has:
        _draw_shirt_front(canvas, neck, (246, 246, 248))
        _draw_tie(canvas, p)
        jacket = mix(c.clothing, (30, 34, 48), 0.75)
        for side in (-1, 1):
            lapel = [(neck + 2, 61), (neck + 5, 61), *shoulders, (14, 125), (12, 90)]
            canvas.fill(np.array(lapel) * (side, 1), jacket)
            canvas.stroke(np.array([(neck + 2, 61), (12, 90)]) * (side, 1), shade(jacket, 0.6), 1)
        _draw_collar(canvas, neck, (255, 255, 255))
        return
    if p.collar:
        canvas.fill(mirrored([(0, 80), (neck + 3, 62), *shoulders, (0, 125)]), c.clothing)
        _draw_collar(canvas, neck, mix(c.clothing, (255, 255, 255), 0.25))
        return
    # A wide scoop on narrow shoulders, or a crew neck on broad ones.
    half = (
        [(0.0, 70.0), (neck, 66.0), (neck + 7, 60.0)]
        if broad
        else [(0.0, 80.0), (neck + 6, 76.0), (neck + 20, 70.0)]
    )
    neckline = smooth([(-x, y) for x, y in half[:0:-1]] + half, closed=False)
    right = smooth([half[-1], *slope, shoulders[-1]], closed=False)
    canvas.fill(np.concatenate([neckline, right, (right * (-1, 1))[::-1]]), c.clothing)
    canvas.stroke(neckline, shade(c.clothing, 0.8), 1.6)


def _draw_shirt_front(canvas: Canvas, neck: float, colour: tuple[int, int, int]) -> None:
    canvas.fill(mirrored([(0, 66), (neck + 3, 59), (neck + 6, 125), (0, 125)]), colour)


def _draw_collar(canvas: Canvas, neck: float, colour: tuple[int, int, int]) -> None:
    for side in (-1, 1):
        flap = np.array([(neck - 2, 57), (neck + 5, 60), (neck + 1, 76), (3, 66)]) * (side, 1)
        canvas.fill(flap, colour)
        canvas.stroke(flap[1:], shade(colour, 0.72), 0.8)


def _draw_tie(canvas: Canvas, p: Portrait) -> None:
    tie = p.palette.tie
    canvas.fill(mirrored([(6, 72), (12, 125)]), tie)
    for y in (84, 96, 108):
        canvas.stroke(np.array([(-10, y + 5), (10, y - 5)]), mix(tie, (255, 255, 255), 0.4), 2)
    canvas.fill(mirrored([(8.5, 62), (5.5, 75)]), shade(tie, 0.85))


def draw_necklace(canvas: Canvas, p: Portrait) -> None:
    """Draws a bead necklace with a pendant, just below the chin."""
    if "Wearing_Necklace" not in p.has:
        return
    neck, metal = p.head.neck, p.palette.metal
    line = smooth([(-neck - 2, 60), (-neck * 0.6, 68), (0, 71), (neck * 0.6, 68), (neck + 2, 60)],
                  closed=False)  # fmt: skip
    canvas.stroke(moved(line, 0, 1.6), p.palette.skin_shadow, 2.0, alpha=150)
    canvas.stroke(line, shade(metal, 0.8), 1.2)
    for x, y in line[::2]:
        canvas.fill(ellipse(x, y, 3.2, 3.2), metal)
    canvas.fill(ellipse(0, 74.5, 4.0, 4.6), shade(metal, 0.85))
    canvas.fill(ellipse(-1, 73.5, 1.6, 1.8), (255, 255, 255), 200)


def draw_ears(canvas: Canvas, p: Portrait) -> None:
    """Draws both ears; long hair later covers them."""
    c = p.palette
    for side in (-1, 1):
        x = side * (p.head.temple + 1.5)
        canvas.fill(ellipse(x, 8, 5.5, 11), shade(c.skin, 0.95), depth=_EAR_DEPTH)
        canvas.fill(ellipse(x + side, 8, 2.8, 6.5), c.skin_shadow, 150, depth=_EAR_DEPTH)


def draw_earrings(canvas: Canvas, p: Portrait) -> None:
    """Draws drop earrings, over any hair."""
    if "Wearing_Earrings" not in p.has:
        return
    metal = p.palette.metal
    for side in (-1, 1):
        x = side * (p.head.temple + 2.5)
        canvas.fill(ellipse(x, 20, 2.2, 2.2), metal, depth=_EAR_DEPTH)
        canvas.fill(ellipse(x, 30, 6.0, 8.2), shade(metal, 0.72), depth=_EAR_DEPTH)
        canvas.fill(ellipse(x, 30, 4.9, 7.1), metal, depth=_EAR_DEPTH)
        canvas.fill(ellipse(x - 1.2, 26.5, 1.4, 1.8), (255, 255, 255), 220, depth=_EAR_DEPTH)


def head_outline(head: Head) -> Points:
    """Returns the closed outline of skull, cheeks, jaw and chin."""
    t = head.temple
    return smooth(
        mirrored(
            [
                (0, -head.top),
                (0.52 * t, -0.94 * head.top),
                (0.90 * t, -0.66 * head.top),
                (t + 1.0, -0.30 * head.top),
                (t + 0.5, 0),
                (head.cheek, 19),
                (head.jaw, 37),
                (head.chin_side, head.chin - 5),
                (0, head.chin),
            ]
        )
    )


def draw_double_chin(canvas: Canvas, p: Portrait) -> None:
    """Draws the fold of a second chin; the head is drawn over its upper part."""
    if "Double_Chin" not in p.has:
        return
    c, head = p.palette, p.head
    width = 0.5 * (head.jaw + head.chin_side) + 5
    fold = ellipse(0, head.chin - 3, width, 15)
    canvas.fill(moved(fold, 0, 2), shade(c.skin_shadow, 0.85))
    canvas.fill(fold, shade(c.skin, 0.97))
    canvas.glow((0, head.chin + 3), (width, 8), shade(c.skin_shadow, 0.75), 1.0)


def draw_head(canvas: Canvas, p: Portrait) -> None:
    """Draws the head with soft light from one side, cheeks and, when bald, a shining scalp."""
    c, head, light = p.palette, p.head, p.pose.light
    outline = head_outline(head)
    face = canvas.clip(outline)
    canvas.fill(outline, c.skin)
    side = 1 if light < 0 else -1
    canvas.glow((side * 44, 16), (34, 70), c.skin_shadow, 0.35 + 0.25 * abs(light), within=face)
    canvas.glow((0, head.chin + 4), (34, 16), c.skin_shadow, 0.45, within=face)
    if "Oval_Face" in p.has:  # the sides fall away from a narrow front
        for x in (-head.cheek - 1, head.cheek + 1):
            canvas.glow((x, 24), (13, 32), c.skin_shadow, 0.95, within=face)
    if "Chubby" in p.has:  # round, full cheeks
        for x in (-27, 27):
            canvas.glow((x, 31), (19, 15), shade(c.skin_shadow, 0.92), 0.78, within=face)
            canvas.glow((x * 0.96, 19), (20, 17), mix(c.skin, c.skin_light, 0.7), 1.0, within=face)
    canvas.glow((-side * 10, -22), (34, 30), c.skin_light, 0.35)
    if "Double_Chin" in p.has:
        chin = smooth([(-17, head.chin - 6), (0, head.chin), (17, head.chin - 6)], closed=False)
        canvas.stroke(chin, shade(c.skin_shadow, 0.75), 2.0)
    if "Bald" in p.has:
        canvas.glow((-side * 12, -46), (17, 11), (255, 255, 255), 0.8, within=face)
        canvas.glow((-side * 12, -47), (8, 5), (255, 255, 255), 0.9)
