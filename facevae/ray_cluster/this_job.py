"""The Ray job that this process is the driver of; asking takes neither Ray nor a cluster."""

import json
import os


def submission_id() -> str | None:
    """The name of the Ray job that this process is the driver of; none outside a job.

    Ray's job supervisor leaves it there for the driver, and for the driver alone: workers are told.
    """
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    name = job.get("metadata", {}).get("job_submission_id")
    return None if name is None else str(name)
