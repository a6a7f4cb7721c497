"""A driver knows the job that it runs for."""

import json

from facevae import runtime


def test_a_driver_knows_its_submission(monkeypatch):
    job = {"runtime_env": {}, "metadata": {"job_submission_id": "train-1", "facevae.verb": "train"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert runtime.submission_id() == "train-1"


def test_outside_a_job_there_is_none(monkeypatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert runtime.submission_id() is None
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {}}))
    assert runtime.submission_id() is None
