"""The record of a run."""

from pydantic import Field

from facevae.config.base import NotEmpty, Settings


class TrackingConfig(Settings):
    """Where MLflow records the run."""

    uri: NotEmpty | None = Field(
        None,
        description="tracking server or store; none: MLFLOW_TRACKING_URI, else the training run's "
        "store, else mlflow.db in the output folder",
    )
    experiment: NotEmpty = Field("facevae", description="MLflow experiment")
    run_name: str | None = Field(None, description="name of the run; none: the command's name")
    register_as: NotEmpty | None = Field(
        None, description="register the trained model under this name in the model registry"
    )
    system_metrics: bool = Field(True, description="log CPU, memory and GPU use")
    patience_seconds: float = Field(
        600,
        ge=0,
        description="how long to wait for a tracking server that went away before a command fails "
        "at its end; its work is kept, and the same command delivers the rest",
    )
