"""Every setting of every verb, as frozen pydantic models; YAML and command line map onto these.

One model per concern, composed into one model per verb (`ShardsConfig` ... `QuickstartConfig`).
Names carry scope and unit: `global_batch_size`, `warmup_steps`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

ModelName = Literal["dfc_vae", "dfc_vae_resnet", "dfc_vae_large", "dfc_vae_large_v2"]
Split = Literal["train", "val", "test"]
HELD_OUT_SPLITS: tuple[Split, ...] = ("val", "test")
LabelEncoding = Literal["auto", "signed", "binary"]
CropBox = tuple[int, int, int, int]
PRETRAINED = ("vggface2", "casia-webface")
"""names of weights that facenet-pytorch downloads"""
Case = Literal["training", "attributes", "sharding", "resume"]
BenchmarkLoss = Literal["facenet", "onet"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Workers = Annotated[int, Field(ge=1)]
Tries = Annotated[int, Field(ge=1)]
_TRIES = (
    "how often a shard is tried that raises an error or whose process dies; the job finishes the "
    "others, and fails with the name of this one"
)
CPU_QUANTUM = 0.25
"""the logical CPUs of one reader; CPUs are planned in multiples of it"""


class Frozen(BaseModel):
    """Immutable settings; an unknown key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# --- what is trained -----------------------------------------------------------------------------


class ModelConfig(Frozen):
    """Which VAE, and in which form."""

    name: ModelName = Field(
        "dfc_vae",
        description="architecture: dfc_vae and dfc_vae_resnet draw 64x64 pixels, "
        "dfc_vae_large and dfc_vae_large_v2 128x128",
    )
    latent_size: int = Field(100, ge=1, le=4096, description="size Z of the latent vector")
    form: Literal["default", "faithful"] = Field(
        "default",
        description="faithful repeats the original to the letter: batch norm on the output image, "
        "random log-variance head, TensorFlow 1 resizing; default mends these",
    )
    batch_norm_decay: float = Field(
        0.995, gt=0, lt=1, description="share of the old running statistics kept at each step"
    )


class LossConfig(Frozen):
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
    weights: str = Field(
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
        return None if self.weights in PRETRAINED else Path(self.weights).expanduser().absolute()

    @model_validator(mode="after")
    def _one_weight_per_layer(self) -> "LossConfig":
        if self.layer_weights is not None and self.reconstruction == "pixel":
            raise ValueError("reconstruction pixel has no layers; leave layer_weights out")
        if self.layer_weights is not None and len(self.layer_weights) != len(self.layers):
            raise ValueError(
                f"layer_weights has {len(self.layer_weights)} values for {len(self.layers)} "
                "layers; give one per layer"
            )
        return self


class TrainingConfig(Frozen):
    """How long, how fast and in which order."""

    steps: int = Field(50_000, ge=1, description="optimiser steps in all")
    global_batch_size: int = Field(
        128, ge=1, description="images a step over all workers, whatever their number"
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
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: autocast of convolutions and matrix products; weights stay fp32"
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


class ScalingConfig(Frozen):
    """How much of the cluster training takes."""

    workers: Workers | tuple[Workers, Workers] = Field(
        1,
        description="DDP workers, one process each; [fewest, most]: as many as the cluster holds "
        "at a time, with the same global batch and learning rate",
    )
    gpu: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="auto: one GPU a worker (nccl) if the cluster has enough or can add them, "
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
        if self.is_elastic and (self.cpus_per_worker or 0) % CPU_QUANTUM:
            raise ValueError(
                f"cpus_per_worker {self.cpus_per_worker:g} with a range of workers: give a "
                f"multiple of {CPU_QUANTUM:g}, since Ray counts other fractions wrongly"
            )
        return self


# --- data ----------------------------------------------------------------------------------------


class DrawnConfig(Frozen):
    """The embedded data set: synthetic portraits with known attributes."""

    count: int = Field(12_000, ge=1, description="faces to draw")
    seed: int = Field(0, ge=0, description="another seed, other faces")


class ShardingConfig(Frozen):
    """How source images become shards."""

    image_size: int = Field(
        160, ge=16, le=1024, description="pixels a side of the stored square images"
    )
    crop: Literal["auto", "square", "celeba"] | CropBox = Field(
        "auto",
        description="square: the largest centred square; celeba: the 148x148 face box of 178x218 "
        "images; auto: celeba for images of just that size, else square; or a box [left, top, "
        "right, bottom] in pixels",
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
    tries: Tries = Field(3, description=_TRIES)

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


# --- after training ------------------------------------------------------------------------------


class EncodingConfig(Frozen):
    """The pass that turns shards into latents and attribute vectors."""

    actors: int | None = Field(
        None,
        ge=1,
        description="encoder actors; none: one a GPU, or one a CPU that can be spared, of the "
        "nodes that are there",
    )
    gpu: Literal["auto", "yes", "no"] = Field(
        "auto", description="auto: encode on GPUs if the cluster has any"
    )
    batch_size: int = Field(256, ge=1, description="images through the encoder at once")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="arithmetic of the encoder")
    tries: Tries = Field(3, description=_TRIES)
    min_count: int = Field(
        25, ge=1, description="a vector needs this many faces with and without the attribute"
    )


class EditingConfig(Frozen):
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


class TrackingConfig(Frozen):
    """Where MLflow records the run."""

    uri: str | None = Field(
        None,
        description="tracking server or store; none: MLFLOW_TRACKING_URI, else the training run's "
        "store, else mlflow.db in the output folder",
    )
    experiment: str = Field("facevae", min_length=1, description="MLflow experiment")
    run_name: str | None = Field(None, description="name of the run; none: the verb's name")
    register_as: str | None = Field(
        None, description="register the trained model under this name in the model registry"
    )
    system_metrics: bool = Field(True, description="log CPU, memory and GPU use")
    patience_seconds: float = Field(
        600,
        ge=0,
        description="how long to wait for a tracking server that went away before a verb fails at "
        "its end; its work is kept, and the same command delivers the rest",
    )


# --- one model per verb --------------------------------------------------------------------------


class SourceConfig(Frozen):
    """Raw faces: a folder with a label table, or drawn ones."""

    images: str | None = Field(
        None, description="folder of images, flat or nested; none: drawn faces"
    )
    attributes: str | None = Field(
        None, description="label table of the images: CelebA's list_attr_celeba.txt, or CSV"
    )
    partition: str | None = Field(
        None, description="list_eval_partition.txt; none: 80/10/10 by a hash of identity or id"
    )
    identities: str | None = Field(None, description="identity_CelebA.txt, one person a number")
    drawn: DrawnConfig = Field(DrawnConfig(), description="the faces drawn when images is not set")

    @model_validator(mode="after")
    def _images_with_labels(self) -> "SourceConfig":
        if self.images is not None and self.attributes is None:
            raise ValueError("--images needs --attributes FILE, the label table of the images")
        if self.images is None:
            for name in ("attributes", "partition", "identities"):
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name} needs --images DIR, the folder it describes")
        return self


class ShardsConfig(SourceConfig):
    """`facevae shards`: source images to Parquet shards."""

    output: str = Field("runs/shards", description="folder (or URI) of the shards")
    sharding: ShardingConfig = Field(ShardingConfig())
    tracking: TrackingConfig = Field(TrackingConfig())


class TrainConfig(SourceConfig):
    """`facevae train`: shards to a trained VAE."""

    output: str = Field("runs/train", description="folder (or URI) of the run")
    shards: str | None = Field(
        None, description="folder of shards; none: made from the source in the output folder first"
    )
    sharding: ShardingConfig = Field(ShardingConfig())
    model: ModelConfig = Field(ModelConfig())
    loss: LossConfig = Field(LossConfig())
    training: TrainingConfig = Field(TrainingConfig())
    scaling: ScalingConfig = Field(ScalingConfig())
    tracking: TrackingConfig = Field(TrackingConfig())

    @model_validator(mode="after")
    def _one_source(self) -> "TrainConfig":
        if self.shards is not None and self.images is not None:
            raise ValueError("--shards and --images both say where the faces are; give one")
        return self

    @model_validator(mode="after")
    def _an_image_for_each_worker(self) -> "TrainConfig":
        if self.training.global_batch_size < self.scaling.most:
            raise ValueError(
                f"training.global_batch_size {self.training.global_batch_size} has no image for "
                f"some of {self.scaling.most} workers: lower scaling.workers"
            )
        return self


class AttributesConfig(Frozen):
    """`facevae attributes`: shards through the encoder to attribute vectors."""

    output: str = Field("runs/attributes", description="folder (or URI) of the vectors")
    shards: str = Field(description="folder of shards")
    model: str = Field(
        description="trained model: run or checkpoint folder, runs:/<id>/model or "
        "models:/<name>@<alias>"
    )
    encoding: EncodingConfig = Field(EncodingConfig())
    tracking: TrackingConfig = Field(TrackingConfig())


class EditConfig(Frozen):
    """`facevae edit`: stored latents and a vector to edited faces."""

    output: str = Field("runs/edit", description="folder (or URI) of the pictures")
    model: str = Field(
        description="trained model: run or checkpoint folder, runs:/<id>/model or "
        "models:/<name>@<alias>"
    )
    vectors: str = Field(description="attribute_vectors.h5, or the folder that holds it")
    editing: EditingConfig = Field(EditingConfig())
    tracking: TrackingConfig = Field(TrackingConfig())


class QuickstartConfig(TrainConfig):
    """`facevae quickstart`: from faces to a smile in one command."""

    output: str = Field("runs/quickstart", description="folder of everything")
    encoding: EncodingConfig = Field(EncodingConfig())
    editing: EditingConfig = Field(EditingConfig())


class BenchmarkConfig(Frozen):
    """`facevae benchmark`: how fast the program is here, in ratios measured side by side."""

    output: str = Field(
        "runs/benchmark", description="folder of everything, on this machine or a mounted disk"
    )
    cases: tuple[Case, ...] = Field(
        ("training", "attributes", "sharding", "resume"),
        min_length=1,
        description="what is measured; one that is in the output folder already is not again",
    )
    models: tuple[ModelName, ...] = Field(
        ("dfc_vae",), min_length=1, description="VAEs whose training is measured"
    )
    losses: tuple[BenchmarkLoss, ...] = Field(
        ("facenet", "onet"),
        min_length=1,
        description="perceptual losses of the measured trainings: the original's three FaceNet "
        "layers at 160 pixels, or the O-Net's at 64",
    )
    rounds: int = Field(5, ge=1, description="measurements of each figure, taken in turn")
    steps: int = Field(32, ge=16, description="steps of one measured training, of 128 images each")
    precision: Literal["fp32", "bf16"] = Field("bf16", description="arithmetic of training")
    faces: int = Field(
        202_599, ge=1, description="drawn faces of the attribute pass; as many as CelebA has"
    )
    few_faces: int = Field(
        20_000, ge=1, description="faces of the pass whose time that of all is compared with"
    )
    image_size: int = Field(64, ge=16, le=1024, description="pixels a side of the stored faces")
    against: str | None = Field(
        None, description="result.json of another commit, or its folder, to compare with"
    )
    tracking: TrackingConfig = Field(TrackingConfig())
