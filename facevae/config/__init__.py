"""Every setting of every command, as frozen pydantic models; YAML and command line map onto these.

One model per concern, composed into one model per command (`ShardsConfig` ... `QuickstartConfig`).
Names carry scope and unit: `global_batch_size`, `warmup_steps`.
"""

from facevae.config.alignment import AlignmentConfig, PartsConfig
from facevae.config.base import (
    HELD_OUT_SPLITS,
    READ_CPUS,
    Arithmetic,
    FacenetModelName,
    ModelName,
    Precision,
    Settings,
    Split,
)
from facevae.config.commands import (
    AlignConfig,
    AttributesConfig,
    BenchmarkConfig,
    CompareConfig,
    EditConfig,
    EvaluateConfig,
    ImagesConfig,
    ImportFacenetConfig,
    QuickstartConfig,
    ShardsConfig,
    SourceConfig,
    TrainConfig,
    VectorsConfig,
)
from facevae.config.data import CropBox, FileNames, LabelEncoding, ShardingConfig, SyntheticConfig
from facevae.config.directions import DirectionsConfig
from facevae.config.editing import EditingConfig
from facevae.config.encoding import EncodingConfig
from facevae.config.evaluation import EvaluationConfig, JudgeName
from facevae.config.photo import PhotoAlignmentConfig, PhotoConfig, PhotoFormat
from facevae.config.tracking import TrackingConfig
from facevae.config.training import (
    PRETRAINED,
    LossConfig,
    ModelConfig,
    ScalingConfig,
    TrainingConfig,
)

__all__ = [
    "HELD_OUT_SPLITS",
    "PRETRAINED",
    "READ_CPUS",
    "AlignConfig",
    "AlignmentConfig",
    "Arithmetic",
    "AttributesConfig",
    "BenchmarkConfig",
    "CompareConfig",
    "CropBox",
    "DirectionsConfig",
    "EditConfig",
    "EditingConfig",
    "EncodingConfig",
    "EvaluateConfig",
    "EvaluationConfig",
    "FacenetModelName",
    "FileNames",
    "ImagesConfig",
    "ImportFacenetConfig",
    "JudgeName",
    "LabelEncoding",
    "LossConfig",
    "ModelConfig",
    "ModelName",
    "PartsConfig",
    "PhotoAlignmentConfig",
    "PhotoConfig",
    "PhotoFormat",
    "Precision",
    "QuickstartConfig",
    "ScalingConfig",
    "Settings",
    "ShardingConfig",
    "ShardsConfig",
    "SourceConfig",
    "Split",
    "SyntheticConfig",
    "TrackingConfig",
    "TrainConfig",
    "TrainingConfig",
    "VectorsConfig",
]
