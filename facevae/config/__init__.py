"""Every setting of every verb, as frozen pydantic models; YAML and command line map onto these.

One model per concern, composed into one model per verb (`ShardsConfig` ... `QuickstartConfig`).
Names carry scope and unit: `global_batch_size`, `warmup_steps`.
"""

from facevae.config.base import (
    CPU_QUANTUM,
    HELD_OUT_SPLITS,
    Arithmetic,
    Frozen,
    ModelName,
    Precision,
    Split,
)
from facevae.config.data import CropBox, DrawnConfig, LabelEncoding, ShardingConfig
from facevae.config.latents import EditingConfig, EncodingConfig
from facevae.config.tracking import TrackingConfig
from facevae.config.training import (
    PRETRAINED,
    LossConfig,
    ModelConfig,
    ScalingConfig,
    TrainingConfig,
)
from facevae.config.verbs import (
    AttributesConfig,
    BenchmarkConfig,
    EditConfig,
    QuickstartConfig,
    ShardsConfig,
    SourceConfig,
    TrainConfig,
)

__all__ = [
    "CPU_QUANTUM",
    "HELD_OUT_SPLITS",
    "PRETRAINED",
    "Arithmetic",
    "AttributesConfig",
    "BenchmarkConfig",
    "CropBox",
    "DrawnConfig",
    "EditConfig",
    "EditingConfig",
    "EncodingConfig",
    "Frozen",
    "LabelEncoding",
    "LossConfig",
    "ModelConfig",
    "ModelName",
    "Precision",
    "QuickstartConfig",
    "ScalingConfig",
    "ShardingConfig",
    "ShardsConfig",
    "SourceConfig",
    "Split",
    "TrackingConfig",
    "TrainConfig",
    "TrainingConfig",
]
