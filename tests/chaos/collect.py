"""What a pipeline has left on S3 and in MLflow, read past the proxy."""

from typing import Any

import boto3
from mlflow import MlflowClient

from tests.chaos.checks import LAST_CHECKPOINT, Outcome, RunRecord

BUCKET = "facevae"


class Store:
    """The rehearsal cluster's S3 and MLflow, as a reader."""

    def __init__(self, s3: str, environment: dict[str, str]) -> None:
        """Takes the S3 server's own address, and a client's environment."""
        login = {
            name.lower(): environment[name]
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        }
        self._s3 = boto3.client("s3", endpoint_url=s3, region_name="us-east-1", **login)
        self._mlflow = MlflowClient(environment["MLFLOW_TRACKING_URI"])

    def outcome(self, root: str) -> Outcome:
        """What lies below a folder of the bucket; of checkpoints, the content of the last alone."""
        files = {}
        for key in self._keys(f"{root}/"):
            name = key.removeprefix(f"{root}/")
            is_old = "/checkpoints/" in name and not name.startswith(LAST_CHECKPOINT[:-13])
            files[name] = b"" if is_old else self._content(key)
        return Outcome(files, self._runs(root))

    def remove(self, root: str) -> None:
        """Remove all that lies there; the S3 server keeps it in memory."""
        for key in self._keys(f"{root}/"):
            self._s3.delete_object(Bucket=BUCKET, Key=key)

    def _keys(self, prefix: str) -> list[str]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [each["Key"] for page in pages for each in page.get("Contents", [])]

    def _content(self, key: str) -> bytes:
        content: bytes = self._s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def _runs(self, experiment_name: str) -> list[RunRecord]:
        experiment = self._mlflow.get_experiment_by_name(experiment_name)
        if experiment is None:
            return []
        return [self._run(run) for run in self._mlflow.search_runs([experiment.experiment_id])]

    def _run(self, run: Any) -> RunRecord:
        history = self._mlflow.get_metric_history
        metrics = {
            key: [(point.step, point.value) for point in history(run.info.run_id, key)]
            for key in run.data.metrics
        }
        tags = run.data.tags
        return RunRecord(
            tags.get("facevae.verb", "?"),
            run.info.status,
            metrics,
            tags.get("facevae.starts", "") if tags.get("facevae.verb") == "train" else "",
        )
