"""Draws the face: cheeks, eyes, brows, nose, mouth, beard, lines of age, glasses."""

import numpy as np

from facevae.data.sources.synthetic.body import head_outline
from facevae.data.sources.synthetic.canvas import (
    UNIT_CIRCLE,
    Canvas,
    Points,
    ellipse,
    mix,
    moved,
    ribbon,
    shade,
    smooth,
)
from facevae.data.sources.synthetic.portrait import Portrait

EYE_X = 19.0
_MOUTH_Y = 36.0
_NOSE_DEPTH = 1.6


def draw_cheeks(canvas: Canvas, p: Portrait) -> None:
    """Draws blush, cheekbones, and the lift of a smile."""
    c, face = p.palette, canvas.clip(head_outline(p.head))
    for side in (-1, 1):
        if "High_Cheekbones" in p.has:
            canvas.glow((side * 28, 30), (9, 12), c.skin_shadow, 1.0, depth=0.6, within=face)
            canvas.glow((side * 23, 36), (8, 10), c.skin_shadow, 0.9, depth=0.6, within=face)
            canvas.glow(
                (side * 25, 13),
                (16, 10),
                mix(c.skin_light, (255, 255, 255), 0.3),
                1.0,
                depth=0.8,
                within=face,
            )
        if "Heavy_Makeup" in p.has:
            canvas.glow((side * 28, 17), (14, 9), (214, 84, 116), 0.55, depth=0.8, within=face)
        if "Rosy_Cheeks" in p.has:
            canvas.glow((side * 23, 20), (15, 13), (236, 62, 72), 0.78, depth=0.8, within=face)
        elif "Smiling" in p.has:
            canvas.glow((side * 23, 18), (11, 8), c.blush, 0.4, depth=0.8, within=face)


def draw_specks(canvas: Canvas, p: Portrait) -> None:
    """Draws blemishes and freckles, which an Attractive face lacks by convention."""
    if "Attractive" in p.has:
        return
    colour = shade(p.palette.skin_shadow, 0.82)
    for x, y in p.specks[4:18]:
        canvas.fill(
            ellipse(np.copysign(10 + 18 * abs(x), x), 15 + 8 * y, 0.85, 0.85),
            colour,
            150,
            depth=0.9,
        )


def draw_radiance(canvas: Canvas, p: Portrait) -> None:
    """Draws even highlights on forehead, cheeks and chin of an Attractive face."""
    if "Attractive" not in p.has:
        return
    light = mix(p.palette.skin_light, (255, 255, 255), 0.2)
    canvas.glow((0, -26), (24, 13), light, 0.55, depth=0.6)
    canvas.glow((0, p.head.chin - 8), (10, 6), light, 0.6, depth=0.8)
    for side in (-1, 1):
        canvas.glow((side * 26, 10), (9, 6), light, 0.6, depth=0.8)


def draw_age_lines(canvas: Canvas, p: Portrait) -> None:
    """Draws forehead lines, crow's feet and folds beside the mouth on a face that is not Young."""
    if "Young" in p.has:
        return
    face = canvas.clip(head_outline(p.head))
    line = shade(p.palette.skin_shadow, 0.78)
    for y in (-19.0, -24.5, -30.0):
        wrinkle = smooth([(-17, y + 1), (-8, y - 0.6), (0, y), (8, y - 0.6), (17, y + 1)], False)
        canvas.stroke(wrinkle, line, 1.5, 180, depth=0.8)
    for side in (-1, 1):
        canvas.glow((side * 20, 34), (8, 14), line, 0.75, depth=1)
        canvas.glow((side * 33, -6), (9, 17), line, 0.6, depth=0.6, within=face)
        fold = smooth([(9, 23), (15, 29), (19.5, 38), (19, 44)], False) * (side, 1)
        canvas.stroke(fold, line, 2.0, 190, depth=1)
        for dy in (-2.5, 1.0, 4.5):
            foot = np.array([(29.5, 1 + 0.5 * dy), (34.5, 1 + 1.7 * dy)]) * (side, 1)
            canvas.stroke(foot, line, 1.1, 150, depth=0.8)


def draw_eyes(canvas: Canvas, p: Portrait) -> None:
    """Draws both eyes with bags, eye shadow, iris and lids."""
    for side in (-1, 1):
        _draw_eye_surroundings(canvas, p, side)
        _draw_eye(canvas, p, side)


def _draw_eye_surroundings(canvas: Canvas, p: Portrait, side: int) -> None:
    c, e, x = p.palette, p.eyes, side * EYE_X
    canvas.glow((x, -2), (14, 10), c.skin_shadow, 0.4, depth=1)
    if "Bags_Under_Eyes" in p.has:
        top = e.half_height + 1
        bag = smooth([(-9, top - 1), (0, top + 1), (9, top - 1), (6, top + 6), (-5, top + 6)])
        canvas.fill(
            moved(bag, x, 0), mix(shade(c.skin_shadow, 0.8), (92, 62, 104), 0.4), 165, depth=1
        )
        pouch = moved(smooth([(-8, top + 4), (0, top + 7.5), (9, top + 4)], False), x, 0)
        canvas.stroke(pouch, shade(c.skin_shadow, 0.6), 1.9, depth=1)
    if "Heavy_Makeup" in p.has:
        top = -e.half_height
        lid = [(-10, 0), (-7, top - 3), (1, top - 5.5), (9, top - 4.5), (13, -4), (10, 0)]
        canvas.fill(smooth(np.array(lid) * (side, 1) + (x, 0)), c.eye_shadow, 190, depth=1)


def _draw_eye(canvas: Canvas, p: Portrait, side: int) -> None:
    c, e, x = p.palette, p.eyes, side * EYE_X
    w, h = e.half_width, e.half_height
    # Listed from the inner corner to the outer one.
    upper = smooth([(-w, 1.2), (-0.55 * w, -0.75 * h), (0, -h), (0.6 * w, -0.8 * h), (w, -0.6)],
                   False)  # fmt: skip
    lower = smooth([(-w, 1.2), (-0.4 * w, 0.62 * h), (0.3 * w, 0.72 * h), (w, -0.6)], False)
    opening = np.concatenate([upper, lower[::-1]])

    def place(points: Points) -> Points:
        return points * (side, 1) + (x, 0)

    canvas.fill(place(opening), (250, 248, 246), depth=1)

    def disc(radius: float) -> Points:
        points = UNIT_CIRCLE * radius + (0.0, -0.15 * h)
        low = np.interp(points[:, 0], upper[:, 0], upper[:, 1])
        high = np.interp(points[:, 0], lower[:, 0], lower[:, 1])
        return np.column_stack([points[:, 0], np.clip(points[:, 1], low, high)])

    canvas.fill(place(disc(e.iris)), shade(c.iris, 0.6), depth=1.1)
    canvas.fill(place(disc(0.8 * e.iris)), shade(c.iris, 1.15), depth=1.1)
    canvas.fill(place(disc(0.45 * e.iris)), (16, 12, 14), depth=1.1)
    glint = 1.5 if "Attractive" in p.has else 1.0
    canvas.fill(ellipse(x - 1.3, -0.4 * h, glint, glint), (255, 255, 255), depth=1.1)

    lash = mix(c.brow, (20, 14, 14), 0.75)
    widths = np.linspace(0.5 * e.lashes, 1.5 * e.lashes, len(upper))
    canvas.fill(place(ribbon(upper, widths)), lash, depth=1)
    if "Male" not in p.has:
        flick = np.array([(w - 2, -0.5), (w + 2.5, -3.6), (w + 0.4, 0.4)])
        canvas.fill(place(flick), lash, depth=1)
    canvas.stroke(place(lower), shade(c.skin_shadow, 0.7), 0.7, 170, depth=1)
    crease = upper[3:-3] - (0, 2.4)
    canvas.stroke(place(crease), shade(c.skin_shadow, 0.72), 0.8, 170, depth=1)


def draw_brows(canvas: Canvas, p: Portrait) -> None:
    """Draws both eyebrows; bushy ones are ragged at the top."""
    b, c = p.brows, p.palette
    for side in (-1, 1):
        y = -b.height - (b.unevenness if side > 0 else 0.0)
        line = smooth([(-10, y + 1), (-3, y - 0.55 * b.arch), (4, y - b.arch), (12, y + 1)],
                      False)  # fmt: skip
        widths = b.thickness * np.interp(np.linspace(0, 1, len(line)), (0, 0.25, 1), (0.8, 1, 0.3))
        place = (side * EYE_X, 0.0)
        canvas.fill(ribbon(line, widths) * (side, 1) + place, c.brow, depth=1)
        if "Bushy_Eyebrows" in p.has:
            for x0, y0 in line[1:-2:2]:
                tuft = np.array([(x0 - 1.6, y0), (x0 + 2.4, y0 - 0.58 * b.thickness - 1.4),
                                 (x0 + 1.6, y0)])  # fmt: skip
                canvas.fill(tuft * (side, 1) + place, c.brow, depth=1)


def draw_nose(canvas: Canvas, p: Portrait) -> None:
    """Draws the nose: a shadow on its dark side, tip, wings and nostrils."""
    c, n = p.palette, p.nose
    w, tip = n.half_width, n.tip
    dark = 1 if p.pose.light < 0 else -1
    depth = _NOSE_DEPTH
    if "Pointy_Nose" in p.has:
        facet = np.array([(2.5, -7), (w + 4, tip), (0, tip + 4), (1.6, tip - 4)])
        canvas.fill(facet * (dark, 1), shade(c.skin_shadow, 0.9), 240, depth)
        canvas.fill(facet * (-dark, 1), c.skin_shadow, 200, depth)
    flank = smooth([(n.bridge, -4), (n.bridge + 0.5, 8), (w, tip - 1), (0.6 * w, tip + 2),
                    (0.4 * w, tip - 6), (0.3 * n.bridge, 4)])  # fmt: skip
    canvas.fill(flank * (dark, 1), c.skin_shadow, 90, depth)
    canvas.glow((0, tip + 3), (w + 3, 5), c.skin_shadow, 0.8, depth)
    if "Big_Nose" in p.has:
        ball = mix(c.skin, (200, 84, 70), 0.46)
        for side in (-1, 1):
            canvas.fill(ellipse(side * (w - 4), tip - 1.5, 5, 5), shade(ball, 0.9), depth=depth)
        canvas.fill(ellipse(0, tip - 2, 0.66 * w, 7.5), ball, depth=depth)
        canvas.glow((-dark * 2, tip - 4), (5, 4), c.skin_light, 0.9, depth)
    if "Pointy_Nose" in p.has:
        # A sharp bright bridge over a dark, pointed underside.
        under = np.array([(-w - 4, tip), (0, tip + 6.5), (w + 4, tip), (0, tip - 2)])
        canvas.fill(under, shade(c.skin_shadow, 0.7), depth=depth)
        ridge = np.array([(-1.4, -4), (1.4, -4), (2.2, tip - 3), (0, tip + 1), (-2.2, tip - 3)])
        canvas.fill(ridge, mix(c.skin_light, (255, 255, 255), 0.35), 220, depth)
    else:
        canvas.glow((-dark * 1.2, tip - 4), (3.4, 4.5), c.skin_light, 0.8, depth)
        base = smooth([(-w, tip - 1), (-0.7 * w, tip + 2), (0, tip + 2.6), (0.7 * w, tip + 2),
                       (w, tip - 1)], False)  # fmt: skip
        canvas.stroke(base, shade(c.skin_shadow, 0.8), 0.9, 150, depth)
    for side in (-1, 1):
        nostril = ellipse(side * 0.52 * w, tip + 1.2, 0.2 * w, 1.1)
        canvas.fill(nostril, shade(c.skin_shadow, 0.5), 220, depth)


def draw_mouth(canvas: Canvas, p: Portrait) -> None:
    """Draws lips, and teeth in an open mouth."""
    c, m = p.palette, p.mouth
    x = np.linspace(-1, 1, 21)
    middle = m.lift * (0.35 - x**2) + m.tilt * m.half_width * x
    body = np.sqrt(np.clip(1 - x**2, 0, 1))
    bow = 1 - 0.28 * np.exp(-((x / 0.16) ** 2))
    xs, gap = m.half_width * x, 0.5 * m.gap * body

    def curve(y: np.ndarray) -> Points:
        return np.column_stack([xs, _MOUTH_Y + y])

    inner_top, inner_bottom = curve(middle - gap), curve(middle + gap * 1.5)
    outer_top = curve(middle - gap - m.upper * body**0.8 * bow)
    outer_bottom = curve(middle + gap * 1.5 + m.lower * body**1.3)
    canvas.glow((0, _MOUTH_Y + 11), (11, 5), c.skin_shadow, 0.55, depth=1)
    canvas.fill(np.concatenate([outer_top, inner_top[::-1]]), shade(c.lips, 0.88), depth=1.2)
    canvas.fill(np.concatenate([inner_bottom, outer_bottom[::-1]]), c.lips, depth=1.2)
    if m.gap:
        canvas.fill(np.concatenate([inner_top, inner_bottom[::-1]]), (64, 16, 22), depth=1.2)
        teeth = curve(middle - gap + np.minimum(2.5 * gap, m.teeth * body))
        canvas.fill(
            np.concatenate([inner_top[2:-2], teeth[2:-2][::-1]]), (252, 250, 246), depth=1.2
        )
    else:
        canvas.stroke(inner_top, shade(c.lips, 0.5), 1.1, depth=1.2)
    shine = 0.7 if "Wearing_Lipstick" in p.has else 0.35
    low = float(outer_bottom[10, 1]) - 0.5 * m.lower
    canvas.glow((0, low), (0.45 * m.half_width, 0.6 * m.lower), (255, 240, 236), shine, depth=1.2)
    if "Smiling" in p.has:
        for side in (-1, 1):
            crease = smooth([(m.half_width - 6, -12), (m.half_width + 1.5, -8),
                             (m.half_width + 4, -1)], False)  # fmt: skip
            crease = crease * (side, 1) + (0, _MOUTH_Y)
            canvas.stroke(crease, shade(c.skin_shadow, 0.85), 1.4, 190, depth=1.1)


def draw_beard(canvas: Canvas, p: Portrait) -> None:
    """Draws stubble, goatee and sideburns; the mustache lies over the lips, see below."""
    c, head = p.palette, p.head
    if "5_o_Clock_Shadow" in p.has:
        face = canvas.clip(head_outline(head))
        stubble = mix(c.beard, (58, 64, 78), 0.5)
        for x, y, rx, ry in ((0, 46, 36, 22), (-24, 36, 18, 22), (24, 36, 18, 22), (0, 30, 20, 9)):
            canvas.glow((x, y), (rx, ry), stubble, 0.62, within=face)
        for x, y in p.specks:
            dot = ellipse(26 * x * (1 - 0.25 * max(0, y)), 41 + 10 * y, 0.6, 0.6)
            canvas.fill(dot, c.beard, 130, depth=0.8)
    if "Sideburns" in p.has:
        t, full = head.temple, "Goatee" in p.has
        for side in (-1, 1):
            inner: list[tuple[float, float]] = [(t - 7, -12), (t - 10, 12), (head.cheek - 11, 27)]
            outer: list[tuple[float, float]] = [
                (head.cheek - 2.5, 27),
                (head.cheek, 17),
                (t, 2),
                (t + 0.5, -12),
            ]
            if full:
                inner += [(0.62 * head.jaw, 44), (8, head.chin - 6)]
                outer = [(8, head.chin + 1), (head.chin_side, head.chin - 3),
                         (head.jaw + 0.5, 38), *outer[1:]]  # fmt: skip
            canvas.fill(np.array(inner + outer) * (side, 1), c.beard)
    if "Goatee" in p.has:
        top = _MOUTH_Y + 2 + 0.7 * p.mouth.gap
        goatee = smooth([(-13, top - 3), (-10, top + 6), (0, top + 9), (10, top + 6), (13, top - 3),
                         (16, 48), (11, head.chin + 2), (0, head.chin + 6), (-11, head.chin + 2),
                         (-16, 48)])  # fmt: skip
        canvas.fill(goatee, c.beard, depth=0.8)
        for x in (-8, -4, 0, 4, 8):
            hair = np.array([(x, head.chin - 6), (0.8 * x, head.chin + 4)])
            canvas.stroke(hair, mix(c.beard, (255, 240, 220), 0.25), 0.8, 160, depth=0.8)


def draw_mustache(canvas: Canvas, p: Portrait) -> None:
    """Draws the mustache, on the upper lip."""
    if "Mustache" not in p.has:
        return
    c, m = p.palette, p.mouth
    y = _MOUTH_Y - 0.5 * m.gap - m.upper + 0.35 * m.lift
    end = m.half_width + 2.5
    for side in (-1, 1):
        half = smooth([(0, y - 4.5), (7, y - 6), (end - 2, y - 1.5), (end + 1, y + 4.5),
                       (end - 5, y + 3), (5, y + 1.2), (0, y + 0.6)])  # fmt: skip
        canvas.fill(half * (side, 1), c.beard, depth=1.3)
        streak = smooth([(2, y - 3), (8, y - 3.4), (end - 2, y + 1)], False) * (side, 1)
        canvas.stroke(streak, mix(c.beard, (255, 240, 220), 0.25), 0.8, 170, depth=1.3)


def draw_glasses(canvas: Canvas, p: Portrait) -> None:
    """Draws rimmed glasses, over hair and bangs."""
    if "Eyeglasses" not in p.has:
        return
    rim = p.palette.glasses
    for side in (-1, 1):
        x = side * EYE_X
        lens = smooth(np.array([(-13, -8), (0, -10), (14, -9), (14.5, 2), (10, 11), (-3, 12),
                                (-12, 7)]) * (side, 1) + (x, 1))  # fmt: skip
        canvas.fill(lens, (226, 240, 255), 56, depth=1.2)
        glare = moved(np.array([(-7, 7), (-2, 9), (7, -7), (3, -7.5)]), x, 1)
        canvas.fill(glare, (255, 255, 255), 60, depth=1.2)
        canvas.stroke(np.concatenate([lens, lens[:2]]), rim, 2.6, depth=1.2)
        temple = np.array([(side * 32, -4), (side * (p.head.temple + 2), -3)])
        canvas.stroke(temple, rim, 2.4, depth=0.6)
    bridge = smooth([(-7, -2), (0, -4.5), (7, -2)], False)
    canvas.stroke(bridge, rim, 2.4, depth=1.2)
