"""How one speaks to a tracking store: which one, and with how much patience for one request."""

import logging
import os
from pathlib import Path
from urllib.parse import urlsplit

from facevae import storage
from facevae.config import TrackingConfig
from facevae.errors import UserError

HTTP_SETTINGS = {
    # The delivery tries again by itself and knows what may be sent twice; requests do not.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
"""seconds and counts for one request; the user's environment wins"""


def prepare() -> None:
    """Set MLflow's patience with one request, and its loggers to errors only."""
    # MLflow prints there where a run can be seen; standard output is for the figures.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name, value in HTTP_SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def choose_store(config: TrackingConfig, output: str, of_model: str | None = None) -> str:
    """The tracking store of a verb.

    In this order: the configuration's, MLFLOW_TRACKING_URI, that of the training run whose model
    is used, `mlflow.db` in the output folder. SQLite paths are made absolute: Ray moves its
    workers' working directory.

    Raises:
        UserError: an SQLite store cannot be where the output is.
    """
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or of_model
    if uri is None:
        if not storage.is_local(output):
            raise UserError(
                f"{output} is in object storage, which cannot hold an SQLite tracking store: name "
                "a tracking server with MLFLOW_TRACKING_URI or --tracking.uri"
            )
        return f"sqlite:///{storage.absolute(output)}/mlflow.db"
    scheme, separator, path = uri.partition(":///")
    if scheme == "sqlite" and separator:
        if not storage.is_local(path):
            raise UserError(
                f"{uri}: SQLite cannot keep its store in object storage; name a tracking server "
                "with MLFLOW_TRACKING_URI or --tracking.uri"
            )
        if not path.startswith("/"):
            return f"sqlite:///{Path(path).absolute()}"
    return uri


def without_password(uri: str) -> str:
    """The address as it may be shown."""
    parts = urlsplit(uri)
    return uri if "@" not in parts.netloc else uri.replace(parts.netloc.rpartition("@")[0], "***")
