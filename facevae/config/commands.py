"""One model per command, composed of the others."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from facevae.config.alignment import AlignmentConfig, PartsConfig
from facevae.config.base import AUTO, FacenetModelName, ModelName, NotEmpty, Precision, Settings
from facevae.config.data import FileNames, LabelEncoding, ShardingConfig, SyntheticConfig
from facevae.config.directions import DirectionsConfig
from facevae.config.editing import EditingConfig
from facevae.config.encoding import EncodingConfig
from facevae.config.evaluation import EvaluationConfig
from facevae.config.photo import PhotoAlignmentConfig, PhotoConfig
from facevae.config.tracking import TrackingConfig
from facevae.config.training import LossConfig, ModelConfig, ScalingConfig, TrainingConfig

Case = Literal["training", "agreement", "attributes", "sharding", "alignment", "resume", "start"]
BenchmarkLoss = Literal["facenet", "onet"]


IMAGES = (
    "folder of images (flat or nested), .zip or .tar of them, or Parquet files as Hugging Face has "
    "them; Parquet, folders and .zip also at s3://, gs:// or hf://datasets/NAME"
)
ATTRIBUTES = (
    "label table of the images: CelebA's list_attr_celeba.txt, or CSV; none: the labels in the "
    "Parquet files, else no labels"
)
PARTITION = (
    "list_eval_partition.txt; none: the splits that the Parquet files state, else 80/10/10 by a "
    "hash of identity or id"
)
IDENTITIES = "identity_CelebA.txt, one number per person"
FILE_NAMES = (
    "what the images' names say: utkface: age_gender_race_date, as labels; lfw: a folder per "
    "person, as identities; none: nothing"
)


class ImagesConfig(Settings):
    """One of several sources of faces."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_-]+$", description="what the ids of its images begin with"
    )
    images: NotEmpty = Field(description=IMAGES)
    attributes: NotEmpty | None = Field(None, description=ATTRIBUTES)
    partition: NotEmpty | None = Field(None, description=PARTITION)
    identities: NotEmpty | None = Field(None, description=IDENTITIES)
    file_names: FileNames | None = Field(None, description=FILE_NAMES)
    label_encoding: LabelEncoding | None = Field(
        None, description="as sharding.label_encoding, which holds where this is none"
    )

    @model_validator(mode="after")
    def _said_once(self) -> "ImagesConfig":
        _check_file_names(self)
        return self


class SourceConfig(Settings):
    """Raw faces: images with or without labels, several sources of them, or synthetic ones."""

    images: NotEmpty | None = Field(None, description=f"{IMAGES}; none: synthetic faces")
    attributes: NotEmpty | None = Field(None, description=ATTRIBUTES)
    partition: NotEmpty | None = Field(None, description=PARTITION)
    identities: NotEmpty | None = Field(None, description=IDENTITIES)
    file_names: FileNames | None = Field(None, description=FILE_NAMES)
    sources: tuple[ImagesConfig, ...] = Field(
        (),
        description="several sources instead of --images, each with a name and these settings; "
        "their labels are united, and unknown (0) where a source has none",
    )
    drawn: SyntheticConfig = Field(
        SyntheticConfig(), description="the synthetic faces, when no images are given"
    )

    @model_validator(mode="after")
    def _tables_with_images(self) -> "SourceConfig":
        if self.images is None:
            for name in ("attributes", "partition", "identities", "file_names"):
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name} needs --images DIR, the folder it describes")
        elif self.sources:
            raise ValueError("--images and --sources both say where the faces are; give one")
        _check_file_names(self)
        names = [source.name for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sources are called '{name}': give each its own name")
        return self


class AlignConfig(Settings):
    """`facevae align`: photographs to faces, found and cut out."""

    output: NotEmpty = Field("runs/aligned", description="folder (or URI) of the faces")
    images: NotEmpty = Field(description=IMAGES)
    alignment: AlignmentConfig = Field(AlignmentConfig())
    parts: PartsConfig = Field(PartsConfig())
    tracking: TrackingConfig = Field(TrackingConfig())


def _check_file_names(config: "SourceConfig | ImagesConfig") -> None:
    twice = {"utkface": "attributes", "lfw": "identities"}.get(config.file_names or "")
    if twice is not None and getattr(config, twice) is not None:
        raise ValueError(
            f"file_names {config.file_names} and {twice} both say the {twice}; leave one of them"
        )


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
        for name in ("images", "sources"):
            if self.shards is not None and getattr(self, name):
                raise ValueError(f"--shards and --{name} both say where the faces are; give one")
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


class EditConfig(PhotoConfig):
    """`facevae edit`: stored latents or own photos, and vectors, to edited faces."""

    WORDS: ClassVar[str | None] = "editing.mix"

    output: NotEmpty = Field("runs/edit", description="folder (or URI) of the pictures")
    model: NotEmpty = Field(
        description="trained model: run or checkpoint folder, runs:/<id>/model or "
        "models:/<name>@<alias>"
    )
    vectors: NotEmpty = Field(description="attribute_vectors.h5, or the folder that holds it")
    editing: EditingConfig = Field(EditingConfig())
    alignment: PhotoAlignmentConfig = Field(PhotoAlignmentConfig())
    tracking: TrackingConfig = Field(TrackingConfig())

    @model_validator(mode="after")
    def _photos_are_no_stored_faces(self) -> "EditConfig":
        if self.image is not None:
            names = ("preset", "image_ids", "interpolate", "random", "components")
            for name in names:
                if getattr(self.editing, name) is not None:
                    raise ValueError(
                        f"--editing.{name} is of stored faces, and --image gives a photo: leave "
                        "one of them out"
                    )
        return self


class ImportFacenetConfig(Settings):
    """`facevae import-facenet`: the original's checkpoint and vectors to a model and vectors."""

    output: NotEmpty = Field("runs/facenet", description="folder (or URI) of model and vectors")
    checkpoint: NotEmpty = Field(
        description="checkpoint of the original, such as model.ckpt-50000: its name, one of its "
        "files, or the folder that holds it alone"
    )
    vectors: NotEmpty | None = Field(
        None,
        description="attribute_vectors.h5 that the original computed with this checkpoint, or the "
        "folder that holds it; none: the model alone",
    )
    model: FacenetModelName | None = Field(
        None, description="architecture of the checkpoint; none: the one that its variables fit"
    )
    tracking: TrackingConfig = Field(TrackingConfig())


class EvaluateConfig(Settings):
    """`facevae evaluate`: a model and its vectors, measured on held-out images."""

    output: NotEmpty = Field("runs/evaluate", description="folder (or URI) of the measures")
    shards: NotEmpty = Field(description="folder of shards, whose val and test splits are used")
    model: NotEmpty = Field(
        description="trained model: run or checkpoint folder, runs:/<id>/model or "
        "models:/<name>@<alias>"
    )
    vectors: NotEmpty = Field(
        description="the model's attribute_vectors.h5, or the folder that holds it"
    )
    identities: NotEmpty | None = Field(
        None,
        description="identity_CelebA.txt, one number per person: intervals of `compare` are then "
        "over people; none: over images",
    )
    evaluation: EvaluationConfig = Field(EvaluationConfig())
    encoding: EncodingConfig = Field(EncodingConfig())
    tracking: TrackingConfig = Field(TrackingConfig())


class CompareConfig(Settings):
    """`facevae compare`: evaluated models side by side on the same held-out images."""

    output: NotEmpty = Field("runs/compare", description="folder (or URI) of the comparison")
    runs: tuple[NotEmpty, ...] = Field(
        min_length=2,
        description="output folders of `facevae evaluate`, or folders that hold one as `evaluate`; "
        "may be given as words: facevae compare RUN RUN",
    )
    primary: NotEmpty = Field(
        "auc/mean",
        description="what models are ranked by: auc/mean, auc/<attribute>, psnr, ssim, "
        "perceptual_distance, kl/mean or identity_kept/reconstruction",
    )
    margin: float | None = Field(
        None,
        ge=0,
        description="a model is better if it surely is by more than this, in units of the primary "
        "figure; none: what two seeds of one recipe may differ by (0.01 for AUC and SSIM, 0.2 dB)",
    )
    resamples: int = Field(
        1_000, ge=100, le=100_000, description="how often people are drawn anew for the intervals"
    )
    seed: int = Field(0, ge=0, description="of the drawing")
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
    steps: int = Field(
        32,
        ge=16,
        description="steps of one measured training, of 128 images each; 32 times as many where a "
        "GPU trains, which is through with these before its images had to be decoded",
    )
    precision: Precision = Field(
        "auto",
        description="arithmetic of training; with bf16 it is compared with fp32, and with auto "
        f"trainings are measured in fp32 too; {AUTO}",
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
