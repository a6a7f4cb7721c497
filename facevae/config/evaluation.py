"""Measuring a model on held-out images."""

from typing import Literal

from pydantic import Field, model_validator

from facevae.config.base import NotEmpty, Settings

JudgeName = Literal["mtcnn_onet", "inception_resnet_v1"]


class EvaluationConfig(Settings):
    """What is decoded and edited, and which face network judges it."""

    decoded: int = Field(
        2_048,
        ge=2,
        description="held-out images, evenly spread, that are decoded: for PSNR, SSIM, perceptual "
        "and Frechet distance; all of them have scores and KL divergences",
    )
    edited: int = Field(
        64, ge=0, description="of these, faces whose attributes are moved; 0: no edits are judged"
    )
    strengths: tuple[float, ...] = Field(
        (0.5, 1.0, 1.5, 2.0, 3.0, 4.0),
        min_length=1,
        description="multiples of the attribute vector at which an edit is looked at, rising; 1, "
        "the one that success and leakage are of, is among them",
    )
    judge: Literal["auto", "mtcnn_onet", "inception_resnet_v1"] = Field(
        "auto",
        description="face network that judges edits, never that of the model's loss; auto: "
        "inception_resnet_v1 where its weights are on this machine, else mtcnn_onet",
    )
    judge_weights: NotEmpty = Field(
        "vggface2",
        description="weights of the judge inception_resnet_v1: vggface2, casia-webface, or the "
        "path of a state-dict file (.pt, .pth, .safetensors)",
    )
    judge_images: int = Field(
        8_192, ge=2, description="training images that the judge learns the attributes from"
    )
    seed: int = Field(0, ge=0, description="of the latents that are sampled from the prior")

    @model_validator(mode="after")
    def _rising_strengths(self) -> "EvaluationConfig":
        rising = tuple(sorted(set(self.strengths)))
        if rising != self.strengths or rising[0] <= 0 or 1.0 not in rising:
            raise ValueError(
                f"strengths {list(self.strengths)}: give positive numbers that rise, 1 among them"
            )
        return self
