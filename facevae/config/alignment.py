"""How a face is found in a photograph, and cut out of it."""

from typing import Annotated, Literal

from pydantic import Field

from facevae.config.base import ATTEMPTS, Attempts, Settings

Framing = Literal["box", "level", "celeba"]
Threshold = Annotated[float, Field(ge=0, lt=1)]


class AlignmentConfig(Settings):
    """The search for faces and their crops; the defaults are the original's."""

    framing: Framing = Field(
        "box",
        description="box: the detected box with its margin, stretched to a square, as the original "
        "cuts it; level: that box, turned so that the eyes are level; celeba: turned, scaled and "
        "cut as CelebA's aligned faces and the synthetic ones are, for models that learned those",
    )
    size: int = Field(182, ge=16, le=1024, description="pixels per side of the cut-out face")
    margin: int = Field(
        44,
        ge=0,
        description="pixels of the photograph that the box gets in width and in height, half of "
        "them on each side; the box ends where the photograph does",
    )
    all_faces: bool = Field(
        False,
        description="every face of a photograph, not only the one that is large and in its middle",
    )
    no_face: Literal["drop", "centre", "fail"] = Field(
        "drop",
        description="a photograph without a face: drop: no crop; centre: its largest centred "
        "square; fail: the command fails, and names it",
    )
    skip_aligned: bool = Field(
        True,
        description="images of 178x218 pixels are taken for CelebA's aligned ones, or synthetic "
        "ones: their face is cut out where it is in all of them, without a search",
    )
    min_score: Threshold = Field(
        0.0, description="faces that the detector is less sure of are none"
    )
    min_face_size: int = Field(
        20, ge=12, description="pixels of the smallest face that is searched for"
    )
    thresholds: tuple[Threshold, Threshold, Threshold] = Field(
        (0.6, 0.7, 0.7), description="scores that a face needs in MTCNN's three networks"
    )
    factor: float = Field(
        0.709, gt=0.1, lt=0.95, description="from one size that is searched to the next"
    )
    detection_size: int = Field(
        1024,
        ge=0,
        description="a photograph whose long side is larger is first searched for faces that would "
        "be large enough to find on a copy of this size, and only without one for smaller ones; 0: "
        "always for all; and so with all_faces",
    )
    batch_size: int = Field(
        16, ge=1, description="images of one size that are searched together, small ones at most"
    )


class PartsConfig(Settings):
    """How photographs are aligned part by part, and by how many processes."""

    images: int = Field(256, ge=1, description="photographs of one part, the unit of going on")
    format: Literal["jpeg", "png"] = Field(
        "jpeg", description="how faces are stored: jpeg: quality 95, 4:4:4; png: without loss"
    )
    actors: int | None = Field(
        None,
        ge=1,
        description="detectors; none: one per GPU, or one per CPU (of which it reserves three "
        "quarters), of the nodes that are there",
    )
    gpu: Literal["auto", "yes", "no"] = Field(
        "auto", description="auto: detect on GPUs if the cluster has any"
    )
    attempts: Attempts = Field(3, description=ATTEMPTS)
