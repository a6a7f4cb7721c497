"""The 40 CelebA attributes: their names, exclusions, and how a synthetic face's are sampled."""

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Int8

ATTRIBUTE_NAMES: tuple[str, ...] = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs",
    "Big_Lips", "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows",
    "Chubby", "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup",
    "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard",
    "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns",
    "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat",
    "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip
INDEX = {name: i for i, name in enumerate(ATTRIBUTE_NAMES)}

BEARD_STYLES = ("5_o_Clock_Shadow", "Goatee", "Mustache", "Sideburns")
HAIR_COLOURS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
EXCLUSIVE_GROUPS: tuple[tuple[str, ...], ...] = (
    HAIR_COLOURS,
    ("Straight_Hair", "Wavy_Hair"),
    *(("Bald", name) for name in HAIR_COLOURS),
    ("Bald", "Straight_Hair"),
    ("Bald", "Wavy_Hair"),
    ("Bald", "Bangs"),
    ("Bald", "Receding_Hairline"),
    ("Bald", "Wearing_Hat"),
    ("Bangs", "Receding_Hairline"),
    ("Wearing_Hat", "Receding_Hairline"),
    ("Wearing_Necklace", "Wearing_Necktie"),
)

# Shares among bearded men; a full beard is goatee, mustache and sideburns together.
_BEARDS: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.36, ("5_o_Clock_Shadow",)),
    (0.11, ("Goatee",)),
    (0.12, ("Mustache",)),
    (0.09, ("Sideburns",)),
    (0.11, ("Goatee", "Mustache")),
    (0.15, ("Goatee", "Mustache", "Sideburns")),
    (0.06, ("5_o_Clock_Shadow", "Sideburns")),
)


def sample_attributes(rng: np.random.Generator) -> Int8[np.ndarray, "40"]:
    """Returns one face's labels, -1 or +1 in ATTRIBUTE_NAMES order.

    Ancestral sampling: each attribute is drawn given those drawn before it, with probabilities
    like CelebA's; rare attributes (Bald, Mustache, Wearing_Hat, ...) are raised to 5 to 10 %.
    """
    uniform = rng.random(len(ATTRIBUTE_NAMES))
    on: set[str] = set()

    def draw(name: str, probability: float) -> bool:
        if uniform[INDEX[name]] < probability:
            on.add(name)
        return name in on

    male = draw("Male", 0.42)
    young = draw("Young", 0.66 if male else 0.82)
    _sample_hair(draw, male, young)
    if male:
        _sample_beard(uniform[INDEX["No_Beard"]], on)
    if not on.intersection(BEARD_STYLES):
        on.add("No_Beard")

    makeup = not male and draw("Heavy_Makeup", 0.64 if young else 0.42)
    draw("Wearing_Lipstick", 0.0 if male else 0.86 if makeup else 0.45)
    draw("Rosy_Cheeks", 0.01 if male else 0.26 if makeup else 0.06)
    draw("Wearing_Earrings", 0.02 if male else 0.33)
    if not draw("Wearing_Necktie", 0.24 if male else 0.0):
        draw("Wearing_Necklace", 0.02 if male else 0.26)
    draw("Eyeglasses", 0.11 if young else 0.26)

    smiling = draw("Smiling", 0.48)
    draw("High_Cheekbones", 0.74 if smiling else 0.18)
    draw("Mouth_Slightly_Open", 0.74 if smiling else 0.25)
    draw("Narrow_Eyes", 0.14)
    draw("Bags_Under_Eyes", 0.13 if young else 0.36)
    draw("Arched_Eyebrows", 0.06 if male else 0.58 if makeup else 0.30)
    draw("Bushy_Eyebrows", 0.28 if male else 0.07)

    chubby = draw("Chubby", 0.10 if young else 0.16)
    draw("Double_Chin", (0.45 if chubby else 0.02) + (0.12 if not young else 0.0))
    draw("Oval_Face", 0.08 if chubby else 0.32)
    pointy = draw("Pointy_Nose", 0.28)
    draw("Big_Nose", (0.42 if male else 0.13) * (0.5 if pointy else 1.0))
    draw("Big_Lips", 0.25)
    draw("Pale_Skin", 0.09)
    draw("Blurry", 0.07)
    draw(
        "Attractive",
        0.18 + 0.30 * young + 0.14 * (not male) + 0.18 * makeup - 0.16 * chubby,
    )
    return labels(on)


def _sample_hair(draw: Callable[[str, float], bool], male: bool, young: bool) -> None:
    if draw("Bald", (0.13 if young else 0.32) if male else 0.0):
        return
    if not draw("Gray_Hair", 0.005 if young else 0.34):
        # Each chance is given that the colours before it were not drawn.
        _ = (
            draw("Black_Hair", 0.30)
            or draw("Blond_Hair", 0.12 if male else 0.38)
            or draw("Brown_Hair", 0.52)
        )
    _ = draw("Wavy_Hair", 0.20 if male else 0.42) or draw("Straight_Hair", 0.38)
    hat = draw("Wearing_Hat", 0.12 if male else 0.07)
    if not draw("Bangs", 0.18 if male else 0.23) and not hat:
        draw("Receding_Hairline", (0.16 if young else 0.40) if male else 0.03)


def _sample_beard(uniform: float, on: set[str]) -> None:
    for share, styles in _BEARDS:
        threshold = 0.52 * share
        if uniform < threshold:
            on.update(styles)
            return
        uniform -= threshold


def labels(on: Iterable[str]) -> Int8[np.ndarray, "40"]:
    """Returns the labels with the named attributes +1 and all others -1."""
    signs = np.full(len(ATTRIBUTE_NAMES), -1, dtype=np.int8)
    signs[[INDEX[name] for name in on]] = 1
    return signs


def names_on(attributes: Int8[np.ndarray, "40"]) -> frozenset[str]:
    """Returns the names of the attributes that are +1."""
    return frozenset(
        name for name, sign in zip(ATTRIBUTE_NAMES, attributes, strict=True) if sign > 0
    )


def check_drawable(attributes: Int8[np.ndarray, "40"]) -> None:
    """Raises ValueError, naming the attributes, where the labels contradict each other."""
    on = names_on(attributes)
    for group in EXCLUSIVE_GROUPS:
        clash = [name for name in group if name in on]
        if len(clash) > 1:
            raise ValueError(
                f"expected at most one of {group}, found {clash}; set one with with_attribute()"
            )
    if ("No_Beard" in on) == bool(on.intersection(BEARD_STYLES)):
        raise ValueError(
            f"expected No_Beard exactly when none of {BEARD_STYLES} is set, found {sorted(on)}; "
            "set one with with_attribute()"
        )


def with_attribute(
    attributes: Int8[np.ndarray, "40"], name: str, value: bool
) -> Int8[np.ndarray, "40"]:
    """Returns the labels with one attribute set, and others changed only as exclusions demand.

    Switching an attribute on switches off those it excludes; No_Beard off becomes a goatee.
    """
    if name not in INDEX:
        raise ValueError(f"unknown attribute {name!r}; expected one of {ATTRIBUTE_NAMES}")
    on = set(names_on(attributes))
    if name == "No_Beard":
        on.difference_update(BEARD_STYLES)
        if not value:
            on.add("Goatee")
    elif value:
        for group in EXCLUSIVE_GROUPS:
            if name in group:
                on.difference_update(group)
        on.add(name)
    else:
        on.discard(name)
    on.discard("No_Beard")
    if not on.intersection(BEARD_STYLES):
        on.add("No_Beard")
    return labels(on)
