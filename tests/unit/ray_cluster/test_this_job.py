"""A command knows the Ray job that it runs in."""

import json

from facevae.ray_cluster.this_job import submission_id


def test_a_driver_knows_its_submission(monkeypatch):
    job = {"runtime_env": {}, "metadata": {"job_submission_id": "train-1", "facevae.verb": "train"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert submission_id() == "train-1"


def test_outside_a_job_there_is_none(monkeypatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert submission_id() is None
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {}}))
    assert submission_id() is None
