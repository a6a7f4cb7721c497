"""Editing one's own photos: which, which face of them, and how they are saved."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from facevae.config.base import NotEmpty, Settings

PhotoFormat = Literal["png", "jpeg", "webp", "tiff"]
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
