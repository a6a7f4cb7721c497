"""The record of a run in MLflow; the only package that imports mlflow.

The driver makes the run and ends it; rank 0 writes metrics and pictures without waiting. What is
logged while the server is away is kept and arrives when it is back.
"""

from facevae.tracking.models import (
    MLFLOW_MODELS,
    MODEL_NAME,
    ReconstructionModel,
    log_model,
    model_folder,
    set_model,
    trained_by,
    training_loss,
)
from facevae.tracking.run import (
    NODES_TAG,
    SHARDS_RUN_TAG,
    TRAINING_RUN_TAG,
    VECTORS_RUN_TAG,
    Run,
    read_run_id,
    start_run,
)
from facevae.tracking.store import RunId, sqlite_path, store_uri

__all__ = [
    "MLFLOW_MODELS",
    "MODEL_NAME",
    "NODES_TAG",
    "SHARDS_RUN_TAG",
    "TRAINING_RUN_TAG",
    "VECTORS_RUN_TAG",
    "ReconstructionModel",
    "Run",
    "RunId",
    "log_model",
    "model_folder",
    "read_run_id",
    "set_model",
    "sqlite_path",
    "start_run",
    "store_uri",
    "trained_by",
    "training_loss",
]
