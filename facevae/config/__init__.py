"""Every setting of every command, as frozen pydantic models; YAML and command line map onto these.

One model per concern, composed into one model per command (`ShardsConfig` ... `QuickstartConfig`).
Names carry scope and unit: `global_batch_size`, `warmup_steps`.
"""

from facevae.config.base import (
    HELD_OUT_SPLITS,
    READ_CPUS,
    Arithmetic,
    ModelName,
    Precision,
    Settings,
    Split,
)
from facevae.config.commands import (
    AttributesConfig,
    BenchmarkConfig,
    EditConfig,
    QuickstartConfig,
    ShardsConfig,
    SourceConfig,
    TrainConfig,
    VectorsConfig,
)
from facevae.config.data import CropBox, LabelEncoding, ShardingConfig, SyntheticConfig
from facevae.config.directions import DirectionsConfig
from facevae.config.editing import EditingConfig
from facevae.config.encoding import EncodingConfig
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
    "Arithmetic",
    "AttributesConfig",
    "BenchmarkConfig",
    "CropBox",
    "DirectionsConfig",
    "EditConfig",
    "EditingConfig",
    "EncodingConfig",
    "LabelEncoding",
    "LossConfig",
    "ModelConfig",
    "ModelName",
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
