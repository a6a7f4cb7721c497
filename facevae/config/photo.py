"""Editing one's own photos: which, which face of them, and how they are saved."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from facevae.config.alignment import AlignmentConfig, Framing
from facevae.config.base import NotEmpty, Settings
from facevae.config.data import CropBox

PhotoFormat = Literal["png", "jpeg", "webp", "tiff"]
CELEBA_CROPS: Mapping[str, Any] = {"framing": "celeba", "size": 160}
"""how a face is cut out for a model that does not tell how its training images were"""
Face = Annotated[int, Field(ge=0)]


class PhotoConfig(Settings):
    """Own photos instead of stored faces; without effect when `image` is not set."""

    image: NotEmpty | None = Field(
        None,
        description="your photo, or a folder of photos: the face is found, edited and put back; "
        "none: stored faces are edited",
    )
    face: Face | Literal["all"] = Field(
        0,
        description="which face of a photo, counted from 0, the large and central one; all: each",
    )
    feather: float = Field(
        0.2,
        gt=0,
        le=0.5,
        description="how softly the edited face goes over into the photo, as a share of its side",
    )
    photo_format: PhotoFormat = Field(
        "png", description="of the edited photo; png and tiff keep each pixel outside of the face"
    )
    photo_quality: int | None = Field(
        None,
        ge=1,
        le=100,
        description="of jpeg (none: 95) and of webp (none: each pixel is kept)",
    )
    animation: Literal["gif", "webp"] | None = Field(
        None, description="a moving picture of the photo before and after, too"
    )
    identity_weights: NotEmpty | None = Field(
        None,
        description="weights of a face network other than the loss's, which judges whether it is "
        "still the same person: vggface2, casia-webface or a file; none: that is not judged",
    )

    @model_validator(mode="after")
    def _quality_of_what_has_one(self) -> "PhotoConfig":
        if self.photo_quality is not None and self.photo_format in ("png", "tiff"):
            raise ValueError(
                f"photo_quality is of jpeg and webp, and photo_format is {self.photo_format}, "
                "which keeps every pixel: leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _only_with_an_image(self) -> "PhotoConfig":
        if self.image is None:
            for name, field in PhotoConfig.model_fields.items():
                if getattr(self, name) != field.default:
                    raise ValueError(f"{name} is of photos: give --image PHOTO, too")
        return self


class PhotoAlignmentConfig(Settings):
    """How the face of a photo is found, and cut out as the model's training images were."""

    framing: Framing | Literal["auto"] = Field(
        "auto",
        description="box: the detected box with its margin; level: that box with level eyes; "
        "celeba: as CelebA's aligned faces; auto: as the images that the model learned from, "
        "celeba where the model does not tell",
    )
    margin: int | None = Field(
        None, ge=0, description="of the box, in pixels of the photo; none: as in training, else 44"
    )
    min_face_size: int = Field(
        20, ge=12, description="pixels of the smallest face that is searched for"
    )
    min_score: float = Field(
        0.9, ge=0, lt=1, description="faces that the detector is less sure of are none"
    )

    def resolved(self, trained: Mapping[str, Any], all_faces: bool) -> AlignmentConfig:
        """How a face is found and cut out.

        Args:
            trained: how the model's training images were cut, as far as it is known: `framing`,
                `margin`, `size` and `crop`.
            all_faces: whether all faces of a photo are searched for.
        """
        asked = self.model_dump(exclude={"framing", "margin"}) | {"all_faces": all_faces}
        if self.framing != "auto":
            asked["framing"] = self.framing
        if self.margin is not None:
            asked["margin"] = self.margin
        known = {**CELEBA_CROPS, **trained, **asked}
        known.pop("crop", None)  # of what is aligned: see `crop`
        # Elsewhere an image of CelebA's size is a photo as any other.
        return AlignmentConfig(**known, skip_aligned=known["framing"] == "celeba")

    def crop(self, trained: Mapping[str, Any]) -> CropBox | None:
        """What is cut out of an aligned face: as in training, unless another framing is asked for.

        Args:
            trained: as for `resolved`.
        """
        if self.framing != "auto" or "crop" not in trained:
            return None
        left, top, right, bottom = trained["crop"]
        return left, top, right, bottom
