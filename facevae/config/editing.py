"""Editing faces with attribute vectors."""

from typing import Literal

from pydantic import Field, model_validator

from facevae.config.base import NotEmpty, Settings

Kind = Literal["attribute", "transfer", "interpolate", "random", "components"]


class EditingConfig(Settings):
    """Which faces, which attributes, how strongly."""

    preset: Literal["facenet_smile"] | None = Field(
        None,
        description="facenet_smile: the original's 16 faces without a smile at strengths 0 to 4.5, "
        "moved along its vectors",
    )
    attribute: tuple[str, ...] = Field(
        ("Smiling",), min_length=1, description="attributes to add, all at once"
    )
    method: Literal["auto", "mean", "partial", "lda"] = Field(
        "auto",
        description="directions to move along: mean: the original's difference of class means, "
        "with all that correlates; partial: one attribute with the others held; lda: the normal "
        "of a classifier; auto: partial where the vectors have it, else mean",
    )
    hold: tuple[str, ...] = Field(
        (),
        description="attributes whose LDA scores must not change; the move is corrected by the "
        "smallest one that undoes their change (with method auto it is the smallest of all moves "
        "that change the one score and none of these)",
    )
    strengths: tuple[float, ...] = Field(
        tuple(i / 2 for i in range(10)),
        min_length=1,
        description="multiples of the attribute vector; negative ones take the attribute away; 1 "
        "is one difference of class means, whatever the method",
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
        "Gaussian with the mean and covariance of the training latents; a face outside goes no "
        "further out",
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
                if name != "preset" and getattr(self, name) != field.default:
                    raise ValueError(f"preset {self.preset} fixes {name}; leave one of them out")
        return self

    @model_validator(mode="after")
    def _one_kind(self) -> "EditingConfig":
        names = ("level", "transfer", "interpolate", "random", "components")
        given = [name for name in names if getattr(self, name) is not None]
        if given and self.strengths != EditingConfig.model_fields["strengths"].default:
            given.append("strengths")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are edits of different kinds: give one")
        return self

    @model_validator(mode="after")
    def _hold_others(self) -> "EditingConfig":
        for name in self.hold:
            if name in self.attribute:
                raise ValueError(f"{name} is to be changed and held: leave one of them out")
        if len(set(self.hold)) < len(self.hold) or len(set(self.attribute)) < len(self.attribute):
            raise ValueError("an attribute is named twice: name it once")
        return self
