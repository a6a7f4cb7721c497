"""What one synthetic face looks like, in numbers: pose, palette and the shape of each part.

Everything is decided here from the labels and one vector of uniform draws, always the same
number in the same order, so that two label vectors with the same generator state differ only
in what the labels say. The drawing modules only draw.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int8

from facevae.data.sources.synthetic.canvas import Colour, mix, shade
from facevae.data.sources.synthetic.labels import names_on

# Light to dark; Pale_Skin lies outside this range, so that the label stays visible.
_SKIN_TONES: tuple[Colour, ...] = (
    (238, 190, 152),
    (226, 172, 132),
    (206, 150, 112),
    (178, 122, 86),
)
_PALE_SKIN: Colour = (254, 230, 216)
_HAIR: dict[str, Colour] = {
    "Black_Hair": (50, 44, 53),
    "Blond_Hair": (218, 178, 98),
    "Brown_Hair": (122, 68, 28),
    "Gray_Hair": (170, 174, 186),
}
_OTHER_HAIR: tuple[Colour, ...] = ((188, 98, 88), (138, 64, 92), (108, 90, 124))
_EYES: tuple[Colour, ...] = ((84, 52, 32), (98, 74, 40), (60, 106, 150), (78, 118, 84))
_CLOTHES: tuple[Colour, ...] = (
    (58, 80, 118),
    (112, 62, 84),
    (58, 96, 88),
    (120, 86, 62),
    (82, 76, 112),
    (134, 72, 64),
)
_HATS: tuple[Colour, ...] = ((196, 58, 60), (44, 104, 170), (40, 138, 124), (128, 70, 150))
_TIES: tuple[Colour, ...] = ((176, 30, 44), (36, 56, 132), (120, 32, 96), (20, 104, 92))
_GLASSES: tuple[Colour, ...] = ((26, 24, 30), (52, 30, 24), (30, 34, 70))
_BACKGROUNDS: tuple[Colour, ...] = (
    (146, 170, 188),
    (160, 172, 152),
    (180, 164, 148),
    (164, 158, 182),
    (146, 176, 172),
)
_RANDOM_NUMBERS = 96


@dataclass(frozen=True)
class Pose:
    """Where the head is: centre in output pixels, scale, roll in radians, yaw in pixels."""

    centre: tuple[float, float]
    scale: float
    roll: float
    yaw: float
    light: float  # -1 from the left .. 1 from the right


@dataclass(frozen=True)
class Palette:
    """Colours of one portrait."""

    skin: Colour
    skin_shadow: Colour
    skin_light: Colour
    blush: Colour
    hair: Colour
    brow: Colour
    beard: Colour
    iris: Colour
    lips: Colour
    eye_shadow: Colour
    clothing: Colour
    hat: Colour
    tie: Colour
    glasses: Colour
    metal: Colour
    background: Colour
    background_shape: Colour


@dataclass(frozen=True)
class Head:
    """Half widths and heights of the head outline, in pixels from between the eyes."""

    top: float
    temple: float
    cheek: float
    jaw: float
    chin_side: float
    chin: float
    neck: float


@dataclass(frozen=True)
class Eyes:
    """Half width and half height of an eye opening; iris radius; lash line width."""

    half_width: float
    half_height: float
    iris: float
    lashes: float


@dataclass(frozen=True)
class Brows:
    """Height above the eyes, rise of the arch, thickness, and the right brow's extra height."""

    height: float
    arch: float
    thickness: float
    unevenness: float


@dataclass(frozen=True)
class Nose:
    """Half width at the nostrils, half width of the bridge, and y of the tip."""

    half_width: float
    bridge: float
    tip: float


@dataclass(frozen=True)
class Mouth:
    """Half width, lift of the corners, gap between the lips, height of teeth, lips, tilt."""

    half_width: float
    lift: float
    gap: float
    teeth: float
    upper: float
    lower: float
    tilt: float


@dataclass(frozen=True)
class Hair:
    """Length below the eyes, half width at its end, height above the skull, and the style."""

    length: float
    spread: float
    volume: float
    long: bool
    parting: float  # -1 left .. 1 right


@dataclass(frozen=True)
class Portrait:
    """One face, ready to draw; `has` names the attributes that are on."""

    has: frozenset[str]
    pose: Pose
    palette: Palette
    head: Head
    eyes: Eyes
    brows: Brows
    nose: Nose
    mouth: Mouth
    hair: Hair
    hat_style: int
    collar: bool
    specks: Float[np.ndarray, "N 2"]  # uniform, -1..1: freckles, stubble, background shapes


def portrait_of(attributes: Int8[np.ndarray, "40"], rng: np.random.Generator) -> Portrait:
    """Returns the portrait of `attributes`; `rng` decides everything they leave open."""
    has = names_on(attributes)
    u = rng.random(_RANDOM_NUMBERS)
    s = 2 * u - 1  # the same draws, centred
    male, young, attractive = "Male" in has, "Young" in has, "Attractive" in has
    smiling, long = "Smiling" in has, u[0] < (0.05 if male else 0.93)
    return Portrait(
        has=has,
        pose=Pose(
            centre=(89 + 1.2 * s[1], 111 + 1.2 * s[2]),
            scale=1 + 0.03 * s[3],
            roll=np.radians(2.5) * s[4],
            yaw=1.8 * s[5],
            light=float(s[6]),
        ),
        palette=_palette(has, u[10:30]),
        head=_head(has, s[30:36]),
        eyes=Eyes(
            half_width=9.6 + 1.0 * attractive + 0.3 * s[36],
            half_height=(
                (2.2 if "Narrow_Eyes" in has else 5.8)
                + 0.9 * attractive
                + 0.4 * young
                - 0.5 * smiling
                - 0.3 * male
            ),
            iris=4.6 + 0.7 * attractive + 0.2 * young,
            lashes=1.3 + 0.5 * (not male) + 1.3 * ("Heavy_Makeup" in has),
        ),
        brows=Brows(
            height=13.0 - 1.0 * male + 1.2 * ("Arched_Eyebrows" in has) + 0.5 * s[37],
            arch=6.4 if "Arched_Eyebrows" in has else 0.8,
            thickness=(2.6 + 0.8 * male) * (2.4 if "Bushy_Eyebrows" in has else 1.0),
            unevenness=0.0 if attractive else 1.4,
        ),
        nose=_nose(has, s[38:40]),
        mouth=_mouth(has, s[40:44]),
        hair=_hair(has, bool(long), s[44:48]),
        hat_style=int(3 * u[48]),
        collar=bool(u[49] < (0.55 if male else 0.15)),
        specks=s[50:].reshape(-1, 2),
    )


def _pick(options: tuple[Colour, ...], uniform: float) -> Colour:
    return options[int(len(options) * uniform)]


def _palette(has: frozenset[str], u: Float[np.ndarray, "20"]) -> Palette:
    if "Pale_Skin" in has:
        skin = _PALE_SKIN
    else:
        place = (len(_SKIN_TONES) - 1) * u[0] ** 1.5
        step = min(int(place), len(_SKIN_TONES) - 2)
        skin = mix(_SKIN_TONES[step], _SKIN_TONES[step + 1], place - step)
    if "Attractive" not in has:
        skin = mix(skin, (170, 154, 112), 0.22)  # slightly sallow; see the package docstring
    if "Young" not in has:
        skin = mix(skin, (186, 150, 140), 0.24)
    skin = shade(skin, 0.97 + 0.05 * u[1])

    named = [colour for name, colour in _HAIR.items() if name in has]
    hair = shade(named[0] if named else _pick(_OTHER_HAIR, u[2]), 0.94 + 0.12 * u[3])
    if "Bald" in has:
        hair = (66, 50, 42) if "Young" in has else (120, 112, 108)
    light_hair = "Blond_Hair" in has or "Gray_Hair" in has
    brow = shade(hair, 0.62) if light_hair else shade(hair, 0.8)
    lips = mix(skin, (166, 70, 70), 0.62)
    if "Wearing_Lipstick" in has:
        lips = _pick(((206, 22, 52), (190, 18, 80), (214, 44, 36)), u[4])
    background = shade(_pick(_BACKGROUNDS, u[5]), 0.97 + 0.06 * u[6])
    return Palette(
        skin=skin,
        skin_shadow=mix(shade(skin, 0.76), (150, 60, 50), 0.14),
        skin_light=mix(skin, (255, 246, 230), 0.45),
        blush=mix(skin, (228, 60, 72), 0.7),
        hair=hair,
        brow=mix(brow, (40, 26, 22), 0.25),
        beard=mix(hair, (40, 26, 22), 0.15),
        iris=_pick(_EYES, u[7]),
        lips=lips,
        eye_shadow=_pick(((120, 60, 140), (150, 72, 96), (70, 84, 150)), u[8]),
        clothing=shade(_pick(_CLOTHES, u[9]), 0.95 + 0.1 * u[10]),
        hat=_pick(_HATS, u[11]),
        tie=_pick(_TIES, u[12]),
        glasses=_pick(_GLASSES, u[13]),
        metal=(252, 208, 84) if u[14] < 0.7 else (240, 242, 250),
        background=background,
        background_shape=mix(background, (255, 255, 255), 0.35 * u[15]),
    )


def _head(has: frozenset[str], s: Float[np.ndarray, "6"]) -> Head:
    male, chubby, oval = "Male" in has, "Chubby" in has, "Oval_Face" in has
    return Head(
        top=60.0 + 0.8 * s[0],
        temple=38.0 + 0.6 * s[1] + 1.0 * chubby - 1.0 * oval,
        cheek=36.5 + 0.6 * s[2] + 8.0 * chubby - 4.5 * oval + 1.5 * ("High_Cheekbones" in has),
        jaw=29.5
        + 0.8 * s[3]
        + 3.0 * male
        + 11.0 * chubby
        - 8.0 * oval
        + 2.0 * ("Young" not in has)
        + 1.0 * (not oval),
        chin_side=14.0 + 0.6 * s[4] + 4.0 * male + 7.0 * chubby - 3.5 * oval,
        chin=55.0 + 1.0 * s[5] + 1.0 * male + 4.0 * oval,
        neck=16.0 + 4.5 * male + 2.5 * chubby,
    )


def _nose(has: frozenset[str], s: Float[np.ndarray, "2"]) -> Nose:
    big, pointy = "Big_Nose" in has, "Pointy_Nose" in has
    return Nose(
        half_width=(14.0 if big else 6.8) - 2.0 * pointy + 0.5 * s[0],
        bridge=(5.0 if big else 3.4) - 0.8 * pointy,
        tip=21.5 + 1.5 * big + 3.0 * pointy + 0.6 * s[1],
    )


def _mouth(has: frozenset[str], s: Float[np.ndarray, "4"]) -> Mouth:
    smiling, big = "Smiling" in has, "Big_Lips" in has
    # A closed smile is a grin: it shows teeth, an open mouth shows the dark behind them.
    teeth = 4.4 if smiling else 0.0
    gap = (8.5 if smiling else 6.0) if "Mouth_Slightly_Open" in has else teeth
    thinner = 1.0 if "Young" in has else 0.75
    return Mouth(
        half_width=(18.5 if smiling else 12.0) + 1.5 * big + 0.5 * s[0],
        lift=(8.5 if smiling else 0.3) + 0.4 * s[1],
        gap=gap,
        teeth=teeth,
        upper=(6.4 if big else 2.1) * thinner,
        lower=(8.8 if big else 2.8) * thinner,
        tilt=0.0 if "Attractive" in has else 0.05,
    )


def _hair(has: frozenset[str], long: bool, s: Float[np.ndarray, "4"]) -> Hair:
    straight, wavy = "Straight_Hair" in has, "Wavy_Hair" in has
    if long:
        # Straight hair hangs flat below the shoulders, wavy hair spreads, the rest is a bob.
        length = 66.0 if straight else 58.0 if wavy else 38.0
        spread = 43.0 if straight else 49.0 if wavy else 43.5
    else:
        length, spread = 4.0, 41.0
    return Hair(
        length=length + 3.0 * s[0],
        spread=spread + 1.5 * s[1],
        volume=(6.0 if straight else 10.5 if wavy else 7.5) + 1.0 * s[2],
        long=long,
        parting=float(np.copysign(0.4 + 0.3 * abs(s[3]), s[3])),
    )
