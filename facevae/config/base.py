"""What all settings share: frozen models, and types that several of them use."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

ModelName = Literal["dfc_vae", "dfc_vae_resnet", "dfc_vae_large", "dfc_vae_large_v2"]
FacenetModelName = Literal["dfc_vae", "dfc_vae_resnet", "dfc_vae_large"]
"""those of the original"""
Split = Literal["train", "val", "test"]
Arithmetic = Literal["fp32", "bf16"]
Precision = Literal["auto", "fp32", "bf16"]
AUTO = (
    "auto: bf16 where device and kernels have it natively, else fp32; chosen once, recorded in "
    "the output folder"
)
"""what that precision means, wherever it is a setting"""
NotEmpty = Annotated[str, Field(min_length=1)]
"""a path or a name: an empty one comes of a variable that is not set, and is the current folder
to whoever opens it"""
HELD_OUT_SPLITS: tuple[Split, ...] = ("val", "test")
OLD_NAMES = {"attempts": "tries"}
"""aliases of settings that were renamed, for files and command lines that have the old name"""
Attempts = Annotated[int, Field(ge=1)]
ATTEMPTS = (
    "how often a shard is attempted that raises an error or whose process dies; the job finishes "
    "the others, and fails with the name of this one"
)
"""what that setting means, for every command that has it"""
READ_CPUS = 0.25
"""the logical CPUs of one reader; CPUs are planned in multiples of it"""


class Settings(BaseModel):
    """Immutable settings; an unknown key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    WORDS: ClassVar[str | None] = None
    """the setting that words of the command line belong to which are no option; none: no setting"""

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, values: Any) -> Any:
        for name, old in OLD_NAMES.items():
            if name in cls.model_fields and isinstance(values, dict) and old in values:
                values = {name: values[old]} | {k: v for k, v in values.items() if k != old}
        return values
