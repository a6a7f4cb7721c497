"""One model per command, composed of the others."""

from typing import Literal

from pydantic import Field, model_validator

from facevae.config.base import AUTO, ModelName, NotEmpty, Precision, Settings
from facevae.config.data import LabelEncoding, ShardingConfig, SyntheticConfig
from facevae.config.directions import DirectionsConfig
from facevae.config.editing import EditingConfig
from facevae.config.encoding import EncodingConfig
from facevae.config.tracking import TrackingConfig
from facevae.config.training import LossConfig, ModelConfig, ScalingConfig, TrainingConfig

Case = Literal["training", "agreement", "attributes", "sharding", "resume", "start"]
BenchmarkLoss = Literal["facenet", "onet"]


class SourceConfig(Settings):
    """Raw faces: a folder with a label table, or synthetic ones."""

    images: NotEmpty | None = Field(
        None, description="folder of images, flat or nested; none: synthetic faces"
    )
    attributes: NotEmpty | None = Field(
        None, description="label table of the images: CelebA's list_attr_celeba.txt, or CSV"
    )
    partition: NotEmpty | None = Field(
        None, description="list_eval_partition.txt; none: 80/10/10 by a hash of identity or id"
    )
    identities: NotEmpty | None = Field(
        None, description="identity_CelebA.txt, one number per person"
    )
    drawn: SyntheticConfig = Field(
        SyntheticConfig(), description="the synthetic faces, when images is not set"
    )

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

    output: NotEmpty = Field("runs/shards", description="folder (or URI) of the shards")
    sharding: ShardingConfig = Field(ShardingConfig())
    tracking: TrackingConfig = Field(TrackingConfig())


class TrainConfig(SourceConfig):
    """`facevae train`: shards to a trained VAE."""

    output: NotEmpty = Field("runs/train", description="folder (or URI) of the run")
    shards: NotEmpty | None = Field(
        None, description="folder of shards; none: made from the source in the output folder first"
    )
    init_from: NotEmpty | None = Field(
        None,
        description="model whose weights training starts from: run or checkpoint folder, "
        "runs:/<id>/model or models:/<name>@<alias>; none: random weights",
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


class AttributesConfig(Settings):
    """`facevae attributes`: shards through the encoder to attribute vectors."""

    output: NotEmpty = Field("runs/attributes", description="folder (or URI) of the vectors")
    shards: NotEmpty = Field(description="folder of shards")
    model: NotEmpty = Field(
        description="trained model: run or checkpoint folder, runs:/<id>/model or "
        "models:/<name>@<alias>"
    )
    identities: NotEmpty | None = Field(
        None,
        description="identity_CelebA.txt, one number per person: standard errors then know who is "
        "on more than one image, and a person can be withdrawn",
    )
    encoding: EncodingConfig = Field(EncodingConfig())
    directions: DirectionsConfig = Field(DirectionsConfig())
    tracking: TrackingConfig = Field(TrackingConfig())


class VectorsConfig(Settings):
    """`facevae vectors`: stored latents to attribute vectors anew, without encoding anything."""

    output: NotEmpty = Field("runs/new_vectors", description="folder (or URI) of the new vectors")
    vectors: NotEmpty = Field(
        description="attribute_vectors.h5, or the folder that holds it; it stays as it is"
    )
    add: tuple[NotEmpty, ...] = Field(
        (), description="more of them, of other images and the same model, to take together"
    )
    attributes: NotEmpty | None = Field(
        None,
        description="label table with corrected labels; images that it has no row of, and "
        "attributes that it has no column of, keep theirs",
    )
    label_encoding: LabelEncoding = Field(
        "auto", description="what 0 means in that table, as sharding.label_encoding"
    )
    identities: NotEmpty | None = Field(
        None, description="identity_CelebA.txt, one number per person; none: those stored, if any"
    )
    withdraw: tuple[NotEmpty, ...] = Field((), description="images to leave out, by id")
    withdraw_file: NotEmpty | None = Field(
        None, description="file of more images to leave out, one id per line"
    )
    withdraw_people: tuple[int, ...] = Field(
        (), description="people all of whose images are left out, by the number of their identity"
    )
    withdraw_shards: tuple[NotEmpty, ...] = Field(
        (), description="shards all of whose images are left out, such as train-00003"
    )
    only: tuple[NotEmpty, ...] | None = Field(
        None, min_length=1, description="attributes to keep; none: all"
    )
    min_count: int = Field(
        25, ge=1, description="a vector needs this many faces with and without the attribute"
    )
    directions: DirectionsConfig = Field(DirectionsConfig())
    tracking: TrackingConfig = Field(TrackingConfig())


class EditConfig(Settings):
    """`facevae edit`: stored latents and a vector to edited faces."""

    output: NotEmpty = Field("runs/edit", description="folder (or URI) of the pictures")
    model: NotEmpty = Field(
        description="trained model: run or checkpoint folder, runs:/<id>/model or "
        "models:/<name>@<alias>"
    )
    vectors: NotEmpty = Field(description="attribute_vectors.h5, or the folder that holds it")
    editing: EditingConfig = Field(EditingConfig())
    tracking: TrackingConfig = Field(TrackingConfig())


class QuickstartConfig(TrainConfig):
    """`facevae quickstart`: from faces to a smile in one command."""

    output: NotEmpty = Field("runs/quickstart", description="folder of everything")
    training_minutes: float | None = Field(
        None,
        gt=0,
        description="about how long one worker on this machine may train: where training.steps "
        "take longer, fewer are taken; how many is measured once, said, and kept in the run's "
        "config.json",
    )
    fewest_steps: int = Field(
        400, ge=1, description="steps that training_minutes leaves, however slow the machine is"
    )
    encoding: EncodingConfig = Field(EncodingConfig())
    editing: EditingConfig = Field(EditingConfig())


class BenchmarkConfig(Settings):
    """`facevae benchmark`: how fast the program is here, in ratios measured side by side."""

    output: NotEmpty = Field(
        "runs/benchmark", description="folder of everything, on this machine or a mounted disk"
    )
    cases: tuple[Case, ...] = Field(
        ("training", "agreement", "attributes", "sharding", "resume", "start"),
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
    precision: Precision = Field(
        "auto",
        description=f"arithmetic of training; with bf16 it is compared with fp32; {AUTO}",
    )
    faces: int = Field(
        202_599, ge=1, description="synthetic faces of the attribute pass; as many as CelebA has"
    )
    few_faces: int = Field(
        20_000, ge=1, description="faces of the pass whose time that of all is compared with"
    )
    image_size: int = Field(64, ge=16, le=1024, description="pixels per side of the stored faces")
    against: NotEmpty | None = Field(
        None, description="result.json of another commit, or its folder, to compare with"
    )
    tracking: TrackingConfig = Field(TrackingConfig())
