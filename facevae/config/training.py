"""What is trained: the VAE, its loss, the steps, and how much of a cluster they take."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from facevae.config.base import AUTO, READ_CPUS, ModelName, NotEmpty, Precision, Settings

PRETRAINED = ("vggface2", "casia-webface")
"""names of weights that facenet-pytorch downloads"""
Workers = Annotated[int, Field(ge=1)]


class ModelConfig(Settings):
    """Which VAE, and in which form."""

    name: ModelName = Field(
        "dfc_vae",
        description="architecture: dfc_vae and dfc_vae_resnet make 64x64 pixels, "
        "dfc_vae_large and dfc_vae_large_v2 128x128",
    )
    latent_size: int = Field(100, ge=1, le=4096, description="size Z of the latent vector")
    form: Literal["default", "faithful"] = Field(
        "default",
        description="faithful repeats the original to the letter: batch norm on the output image, "
        "random log-variance head, TensorFlow 1 resizing; default mends these",
    )
    smooth_output: bool = Field(
        False,
        description="filter the drawn image by [1, 2, 1] / 4 along both axes: against the mesh of "
        "single pixels that edited faces show; the original draws without",
    )
    batch_norm_decay: float = Field(
        0.995, gt=0, lt=1, description="share of the old running statistics kept at each step"
    )


class LossConfig(Settings):
    """alfa * mean KL + beta * 128 * mean reconstruction error, means over the global batch."""

    reconstruction: Literal["perceptual", "pixel"] = Field(
        "perceptual",
        description="compare features of a frozen face network, or pixels in 0..255 as the "
        "original's PLAIN loss",
    )
    network: Literal["mtcnn_onet", "inception_resnet_v1"] = Field(
        "mtcnn_onet",
        description="frozen face network of the perceptual loss; mtcnn_onet ships with "
        "facenet-pytorch and needs no download",
    )
    weights: NotEmpty = Field(
        "vggface2",
        description="weights of inception_resnet_v1: vggface2, casia-webface, or the path of a "
        "state-dict file (.pt, .pth, .safetensors)",
    )
    layers: tuple[str, ...] = Field(
        ("conv1", "conv2", "conv3"),
        min_length=1,
        description="feature layers, named as in the original (Conv2d_1a_3x3 ... Block8) or as in "
        "facenet-pytorch",
    )
    layer_weights: tuple[float, ...] | None = Field(
        None, description="one factor per layer; none: 1 each, as the original"
    )
    pixel_weight: float = Field(
        0.0,
        ge=0,
        description="weight of the squared error of pixels in 0..255 beside that of features, "
        "which do not see all of a picture's finest pattern; 0: features alone, as the original",
    )
    network_image_size: int | None = Field(
        None,
        ge=48,
        le=512,
        description="pixels of the square image that the face network sees; none: 160 for "
        "inception_resnet_v1, 64 for mtcnn_onet",
    )
    alfa: float = Field(1.0, ge=0, description="weight of the KL divergence")
    beta: float = Field(
        0.5,
        ge=0,
        description="weight of the reconstruction error, in the original's scale (which sums over "
        "its batch of 128)",
    )

    @property
    def own_weights(self) -> Path | None:
        """The user's own weight file; none: the loss needs no weights, or pretrained ones."""
        if self.reconstruction == "pixel" or self.network == "mtcnn_onet":
            return None
        if self.weights in PRETRAINED:
            return None
        # pathlib's raises where there is no such home.
        return Path(os.path.expanduser(self.weights)).absolute()  # noqa: PTH111

    @model_validator(mode="after")
    def _one_weight_per_layer(self) -> "LossConfig":
        if self.layer_weights is not None and self.reconstruction == "pixel":
            raise ValueError("reconstruction pixel has no layers; leave layer_weights out")
        if self.pixel_weight and self.reconstruction == "pixel":
            raise ValueError("reconstruction pixel has no features; leave pixel_weight out")
        if self.layer_weights is not None and len(self.layer_weights) != len(self.layers):
            raise ValueError(
                f"layer_weights has {len(self.layer_weights)} values for {len(self.layers)} "
                "layers; give one per layer"
            )
        return self


class TrainingConfig(Settings):
    """How long, how fast and in which order."""

    steps: int = Field(50_000, ge=1, description="optimiser steps in all")
    global_batch_size: int = Field(
        128, ge=1, description="images per step over all workers, whatever their number"
    )
    seed: int = Field(666, ge=0, description="fixes image order, initial weights and latent noise")
    learning_rate: float = Field(2e-4, gt=0, description="Adam's step size after warm-up")
    schedule: Literal["step", "cosine"] = Field(
        "step",
        description="step: multiply by decay_factor every decay_steps, as the original; cosine: to "
        "zero at the last step",
    )
    decay_steps: int = Field(1, ge=1, description="steps between two decays of the step schedule")
    decay_factor: float = Field(
        1.0, gt=0, le=1, description="factor of one decay; 1 keeps the rate constant"
    )
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up from zero")
    gradient_clip_norm: float | None = Field(
        None, gt=0, description="largest global gradient norm; none: no clipping"
    )
    precision: Precision = Field(
        "fp32",
        description="bf16: autocast of convolutions and matrix products; weights stay fp32; "
        f"{AUTO}",
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="keep an exponential moving average of the weights with this decay and use it "
        "for validation, grids and the final model",
    )
    sync_batch_norm: bool = Field(
        False,
        description="batch-norm statistics over all workers instead of each worker's share: a step "
        "is then the same on any number of them",
    )
    horizontal_flip: bool = Field(False, description="mirror each image with probability one half")
    log_every: int = Field(20, ge=1, description="steps between two logged metric points")
    grid_every: int = Field(500, ge=1, description="steps between two reconstruction grids")
    grid_faces: int = Field(32, ge=1, le=256, description="fixed held-out faces in every grid")
    validate_every: int = Field(500, ge=1, description="steps between two validations")
    validation_images: int = Field(
        2_000, ge=1, description="at most this many images of the validation split each time"
    )
    checkpoint_every: int = Field(500, ge=1, description="steps between two checkpoints")
    checkpoints_kept: int = Field(3, ge=1, description="newest checkpoints kept")
    keep_best: bool = Field(
        True,
        description="keep the checkpoint with the lowest validation loss too, and its model as "
        "<output>/best; those count whose step is also one of validate_every",
    )
    failed_checkpoints_allowed: int = Field(
        3,
        ge=0,
        description="checkpoints in a row that may fail (disk full, upload refused), each with a "
        "warning, before training stops",
    )

    @model_validator(mode="after")
    def _warmup_ends_before_training(self) -> "TrainingConfig":
        if self.warmup_steps >= self.steps and self.warmup_steps > 0:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} is not below steps {self.steps}; lower it"
            )
        return self


class ScalingConfig(Settings):
    """How much of the cluster training takes."""

    workers: Workers | tuple[Workers, Workers] = Field(
        1,
        description="DDP workers, one process each; [fewest, most]: as many as the cluster holds "
        "at a time, with the same global batch and learning rate",
    )
    gpu: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="auto: one GPU per worker (nccl) if the cluster has enough or can add them, "
        "else CPU",
    )
    cpus_per_worker: float | None = Field(
        None,
        gt=0,
        description="logical CPUs reserved by each worker; none: an equal share of the cluster's "
        "CPUs after those kept for reading (CPU training), or 1 (GPU training); with a range of "
        "workers a share that leaves every node room for reading",
    )

    @property
    def fewest(self) -> int:
        """The workers without which training does not start."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        """The workers that training grows to."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change while training runs."""
        return self.fewest < self.most

    @model_validator(mode="after")
    def _a_range_of_workers(self) -> "ScalingConfig":
        if self.fewest > self.most:
            raise ValueError(
                f"workers [{self.fewest}, {self.most}] is no range; give [fewest, most]"
            )
        if self.is_elastic and (self.cpus_per_worker or 0) % READ_CPUS:
            raise ValueError(
                f"cpus_per_worker {self.cpus_per_worker:g} with a range of workers: give a "
                f"multiple of {READ_CPUS:g}, since Ray counts other fractions wrongly"
            )
        return self
