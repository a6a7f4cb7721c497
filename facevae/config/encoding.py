"""The pass of a trained VAE over a data set."""

from typing import Literal

from pydantic import Field

from facevae.config.base import ATTEMPTS, AUTO, Attempts, Precision, Settings


class EncodingConfig(Settings):
    """The pass that turns shards into latents and attribute vectors."""

    actors: int | None = Field(
        None,
        ge=1,
        description="encoder actors; none: one per GPU, or one per CPU (of which it reserves three "
        "quarters), of the nodes that are there",
    )
    gpu: Literal["auto", "yes", "no"] = Field(
        "auto", description="auto: encode on GPUs if the cluster has any"
    )
    batch_size: int = Field(256, ge=1, description="images through the encoder at once")
    precision: Precision = Field("auto", description=f"arithmetic of the encoder; {AUTO}")
    attempts: Attempts = Field(3, description=ATTEMPTS)
    min_count: int = Field(
        25, ge=1, description="a vector needs this many faces with and without the attribute"
    )
