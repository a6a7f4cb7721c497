"""Editing faces with attribute vectors."""

from typing import Literal

from pydantic import Field, model_validator

from facevae.config.base import Settings


class EditingConfig(Settings):
    """Which faces, which attributes, how strongly."""

    preset: Literal["facenet_smile"] | None = Field(
        None,
        description="facenet_smile: the original's 16 faces without a smile at strengths 0 to 4.5",
    )
    attribute: tuple[str, ...] = Field(
        ("Smiling",), min_length=1, description="attributes to add, all at once"
    )
    strengths: tuple[float, ...] = Field(
        tuple(i / 2 for i in range(10)),
        min_length=1,
        description="multiples of the attribute vector; negative ones take the attribute away",
    )
    image_ids: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="faces to edit; none: the first faces without the (first) attribute",
    )
    faces: int = Field(16, ge=1, le=1024, description="how many faces when image_ids is not given")
    columns: int = Field(2, ge=1, le=64, description="faces side by side in one row of the grid")

    @model_validator(mode="after")
    def _preset_alone(self) -> "EditingConfig":
        if self.preset is not None:
            for name, field in EditingConfig.model_fields.items():
                if name != "preset" and getattr(self, name) != field.default:
                    raise ValueError(f"preset {self.preset} fixes {name}; leave one of them out")
        return self
