"""Editing faces with attribute vectors."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from facevae.config.base import Settings

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
        description="facenet_smile: the original's 16 faces without a smile at strengths 0 to 4.5",
    )
    attribute: Names = Field(
        ("Smiling",), min_length=1, description="attributes to add, all at once"
    )
    mix: Names = Field(
        (),
        description="instead of attribute: one edit of several, each with its own amount, as in "
        "[Smiling=+2, Eyeglasses=-1]; words NAME=AMOUNT without an option are the same",
    )
    strengths: tuple[float, ...] = Field(
        tuple(i / 2 for i in range(10)),
        min_length=1,
        description="multiples of the attribute vector; negative ones take the attribute away; "
        "with a mix: multiples of it, 0 and 1 if none are given",
    )
    image_ids: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="faces to edit; none: the first faces without the (first) attribute",
    )
    faces: int = Field(16, ge=1, le=1024, description="how many faces when image_ids is not given")
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

    @model_validator(mode="after")
    def _preset_alone(self) -> "EditingConfig":
        if self.preset is not None:
            for name, field in EditingConfig.model_fields.items():
                if name not in NOT_OF_PRESETS and getattr(self, name) != field.default:
                    raise ValueError(f"preset {self.preset} fixes {name}; leave one of them out")
        return self
