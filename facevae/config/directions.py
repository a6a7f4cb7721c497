"""Directions derived from latents and labels."""

from pydantic import Field

from facevae.config.base import Settings


class DirectionsConfig(Settings):
    """Partial and LDA directions, and their standard errors."""

    ridge: float | None = Field(
        None,
        gt=0,
        description="penalty of the regression behind partial directions, as a share of a label's "
        "mean variance; none: the one of 0.0001 to 0.1 that predicts the validation images best",
    )
    folds: int = Field(
        10,
        ge=2,
        le=100,
        description="parts of the training images that standard errors leave out in turn; all "
        "images of a person are in one part, if --identities tells who is on them",
    )
