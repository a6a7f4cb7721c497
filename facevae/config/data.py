"""Images: synthetic ones, and the form in which all are stored."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from facevae.config.alignment import AlignmentConfig
from facevae.config.base import ATTEMPTS, Attempts, Settings

LabelEncoding = Literal["auto", "signed", "binary"]
CropBox = tuple[int, int, int, int]
Fraction = Annotated[float, Field(ge=0, le=1)]


class SyntheticConfig(Settings):
    """The embedded data set: synthetic portraits with known attributes."""

    count: int = Field(12_000, ge=1, description="faces to draw")
    seed: int = Field(0, ge=0, description="another seed, other faces")


class ShardingConfig(Settings):
    """How source images become shards."""

    image_size: int = Field(
        160, ge=16, le=1024, description="pixels per side of the stored square images"
    )
    crop: Literal["auto", "square", "celeba"] | CropBox = Field(
        "auto",
        description="square: the largest centred square; celeba: the 148x148 face box of 178x218 "
        "images; auto: celeba for images of just that size, else square; or a box [left, top, "
        "right, bottom] in pixels",
    )
    align: bool = Field(
        False,
        description="find the face of each photograph and cut it out first; crop is then of the "
        "cut-out face, of which auto and square take the whole",
    )
    alignment: AlignmentConfig = Field(
        AlignmentConfig(),
        description="how faces are found and cut out, with align; its size is image_size unless "
        "crop is a box",
    )
    jpeg_quality: int = Field(95, ge=50, le=100, description="JPEG quality of the stored images")
    images_per_shard: int = Field(1_024, ge=1, description="rows of one Parquet shard")
    label_encoding: LabelEncoding = Field(
        "auto",
        description="what 0 means in a label file: binary: absent; signed: unknown; auto: refuse "
        "files that hold only 0 and 1",
    )
    max_bad_fraction: Fraction = Field(
        0.01, description="fail if more than this share of the faces had to be quarantined"
    )
    attempts: Attempts = Field(3, description=ATTEMPTS)

    @model_validator(mode="after")
    def _one_face_an_image(self) -> "ShardingConfig":
        if self.align and self.crop == "celeba":
            raise ValueError(
                "crop celeba is of CelebA's aligned images, and align finds the face: leave one "
                "out, or say --sharding.alignment.framing celeba"
            )
        if self.align and (self.alignment.all_faces or self.alignment.no_face == "fail"):
            raise ValueError(
                "with align an image has one face, and max_bad_fraction tells how many may have "
                "none: leave alignment.all_faces and alignment.no_face fail to `facevae align`"
            )
        return self

    @model_validator(mode="after")
    def _box_not_empty(self) -> "ShardingConfig":
        if isinstance(self.crop, tuple):
            left, top, right, bottom = self.crop
            if not (0 <= left < right and 0 <= top < bottom):
                raise ValueError(
                    f"crop {list(self.crop)} is not a box [left, top, right, bottom] with "
                    "0 <= left < right and 0 <= top < bottom"
                )
        return self
