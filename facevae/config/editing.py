"""Editing faces with attribute vectors."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from facevae.config.base import NotEmpty, Settings

Kind = Literal["attribute", "transfer", "interpolate", "random", "components"]

Names = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
]
"""a list of names; one needs no brackets"""
MIX_STRENGTHS = (0.0, 1.0)
"""multiples of a mix where none are given: before and after"""
NOT_OF_PRESETS = ("preset", "outside_quantile")


class EditingConfig(Settings):
    """Which faces, which attributes, how strongly."""

    preset: Literal["facenet_smile"] | None = Field(
        None,
        description="facenet_smile: the original's 16 faces without a smile at strengths 0 to 4.5, "
        "moved along its vectors",
    )
    attribute: Names = Field(
        ("Smiling",), min_length=1, description="attributes to add, all at once"
    )
    mix: Names = Field(
        (),
        description="instead of attribute: one edit of several, each with its own amount, as in "
        "[Smiling=+2, Eyeglasses=-1]; words NAME=AMOUNT without an option are the same",
    )
    method: Literal["auto", "mean", "partial", "lda"] = Field(
        "auto",
        description="directions to move along: mean: the original's difference of class means, "
        "with all that correlates; partial: one attribute with the others held; lda: the normal "
        "of a classifier; auto: partial where the vectors have it, else mean",
    )
    hold: Names = Field(
        (),
        description="attributes whose LDA scores must not change; the move is corrected by the "
        "smallest one that undoes their change (with method auto it is the smallest of all moves "
        "that change the one score and none of these)",
    )
    strengths: tuple[float, ...] = Field(
        tuple(i / 2 for i in range(10)),
        min_length=1,
        description="multiples of the attribute vector; negative ones take the attribute away; 1 "
        "is one difference of class means, whatever the method; with a mix: multiples of it, 0 and "
        "1 if none are given",
    )
    level: tuple[float, ...] | None = Field(
        None,
        min_length=1,
        description="instead of strengths: the levels of the attributes to bring every face to; 0 "
        "is the mean face without, 1 the mean face with it, by the LDA score",
    )
    damp: bool = Field(
        True,
        description="stop a move where its latent leaves the ellipsoid that holds 99.9 % of a "
        "Gaussian with the mean and covariance of the training latents; any face may move by one "
        "difference of class means of each attribute",
    )
    image_ids: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="faces to edit; none: the first faces without the (first) attribute",
    )
    faces: int = Field(16, ge=1, le=1024, description="how many faces when image_ids is not given")
    transfer: NotEmpty | None = Field(
        None,
        description="a face, by its id, whose levels of the attributes the other faces are given",
    )
    interpolate: tuple[NotEmpty, NotEmpty] | None = Field(
        None, description="two faces, by their ids, and what lies between them"
    )
    interpolation: Literal["spherical", "linear"] = Field(
        "spherical",
        description="the way between them: along the arc around the mean face, as far out as "
        "faces are; or straight",
    )
    steps: int = Field(10, ge=2, le=100, description="pictures from one face to the other")
    random: int | None = Field(
        None, ge=1, le=1024, description="as many faces that do not exist, from a Gaussian"
    )
    seed: int = Field(0, ge=0, description="of the random faces")
    components: int | None = Field(
        None,
        ge=1,
        le=100,
        description="as many principal components of the latents, as controls that need no labels: "
        "the mean face, or the first of image_ids, moved by -3 to 3 standard deviations",
    )
    columns: int = Field(2, ge=1, le=64, description="faces side by side in one row of the grid")
    outside_quantile: float = Field(
        0.99,
        gt=0,
        lt=1,
        description="an edited photo is said to be outside the data if it is further from their "
        "middle than this share of the faces that the vectors came from",
    )

    @property
    def amounts(self) -> dict[str, float]:
        """How much of each attribute's vector an edit at strength 1 adds."""
        parts = (each.rpartition("=") for each in self.mix)
        return {name: float(amount) for name, _, amount in parts} or dict.fromkeys(
            self.attribute, 1.0
        )

    @model_validator(mode="before")
    @classmethod
    def _before_and_after(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("mix") and "strengths" not in values:
            return values | {"strengths": MIX_STRENGTHS}
        return values

    @model_validator(mode="after")
    def _mix_of_amounts(self) -> "EditingConfig":
        for each in self.mix:
            name, _, amount = each.rpartition("=")
            try:
                is_amount = math.isfinite(float(amount)) and float(amount) != 0
            except ValueError:
                is_amount = False
            if not (name and is_amount):
                raise ValueError(
                    f"expected NAME=AMOUNT with an amount other than 0, such as Smiling=+2, found "
                    f"{each!r} in the mix"
                )
        names = [each.rpartition("=")[0] for each in self.mix]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"the mix has {twice[0]} twice; give its amount once")
        if self.mix and self.attribute != EditingConfig.model_fields["attribute"].default:
            raise ValueError("mix and attribute both say what to add; leave one of them out")
        return self

    @property
    def kind(self) -> Kind:
        """What is shown."""
        for kind in ("transfer", "interpolate", "random", "components"):
            if getattr(self, kind) is not None:
                return kind
        return "attribute"

    @property
    def moves_attributes(self) -> bool:
        """Whether attributes are changed, and need vectors."""
        return self.kind in ("attribute", "transfer")

    @property
    def named_faces(self) -> tuple[str, ...]:
        """The ids of all faces that are named."""
        source = () if self.transfer is None else (self.transfer,)
        return (*(self.image_ids or ()), *source, *(self.interpolate or ()))

    @model_validator(mode="after")
    def _preset_alone(self) -> "EditingConfig":
        if self.preset is not None:
            for name, field in EditingConfig.model_fields.items():
                if name not in NOT_OF_PRESETS and getattr(self, name) != field.default:
                    raise ValueError(f"preset {self.preset} fixes {name}; leave one of them out")
        return self

    @model_validator(mode="after")
    def _one_kind(self) -> "EditingConfig":
        names = ("level", "transfer", "interpolate", "random", "components")
        given = [name for name in names if getattr(self, name) is not None]
        if given and self.mix:
            given.append("mix")
        elif given and self.strengths != EditingConfig.model_fields["strengths"].default:
            given.append("strengths")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are edits of different kinds: give one")
        return self

    @model_validator(mode="after")
    def _hold_others(self) -> "EditingConfig":
        for name in self.hold:
            if name in self.amounts:
                raise ValueError(f"{name} is to be changed and held: leave one of them out")
        if len(set(self.hold)) < len(self.hold) or len(set(self.attribute)) < len(self.attribute):
            raise ValueError("an attribute is named twice: name it once")
        return self
