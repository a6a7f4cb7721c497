"""The rehearsal that cluster/README.md shows, command by command, and what must hold on it.

Two Ray worker nodes beside a head, data and checkpoints on S3, MLflow over Postgres.
"""

import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from collections import Counter
from pathlib import Path

import boto3
import fsspec
import psutil
import pytest
import requests
from mlflow import MlflowClient
from PIL import Image

from facevae.runs import storage
from tests.end_to_end.browser import CHROMIUM, screenshot

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "cluster" / "README.md"
LOCAL = REPOSITORY / "cluster" / "local"
DOWN = "cluster/local down"

pytestmark = [
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="the nodes need addresses of 127.0.0.0/8"
    ),
    pytest.mark.timeout(1_200),  # the commands take five minutes where nothing else takes the cores
]


def rehearsal_commands() -> str:
    """The commands of the README's section on one machine, in their order."""
    section = README.read_text().split("## Rehearse on one machine")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```bash\n(.*?)```", section, re.DOTALL))


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """What a shell has in which to run the commands."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    folder = tmp_path_factory.mktemp("cluster")
    return os.environ | {"FACEVAE_CLUSTER": str(folder), "PATH": path}


@pytest.fixture(scope="module")
def rehearsal(environment):
    """The environment of a client, after all commands but the last have run."""
    commands = rehearsal_commands()
    assert commands.rstrip().endswith(DOWN)
    trace = "PS4='+ ${EPOCHREALTIME} '\nset -euxo pipefail\n"
    script = trace + commands.rstrip().removesuffix(DOWN)
    log = Path(environment["FACEVAE_CLUSTER"], "rehearsal.log")
    try:
        with log.open("w") as file:
            done = subprocess.run(
                ["bash", "-c", script],
                cwd=REPOSITORY,
                env=environment,
                stdout=file,
                stderr=file,
                timeout=1100,
                check=False,
            )
        assert done.returncode == 0, log.read_text()[-6000:]
        exports = local(environment, "env").stdout
        client = dict(re.findall(r"export (\w+)='?(.*?)'?$", exports, re.MULTILINE))
        with pytest.MonkeyPatch.context() as patch:
            for name, value in client.items():
                patch.setenv(name, value)
            yield environment | client
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # it keeps the address
    finally:
        parts = parts_of(environment)
        ended = local(environment, "down")
    assert ended.returncode == 0
    assert not [pid for pid in parts if psutil.pid_exists(pid)]


def local(environment, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LOCAL, *words], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def parts_of(environment) -> list[int]:
    """Every process that the cluster consists of."""
    text = (Path(environment["FACEVAE_CLUSTER"]) / "cluster.json").read_text()
    started = [psutil.Process(int(pid)) for pid in re.findall(r'"pid": (\d+)', text)]
    return [each.pid for part in started for each in (part, *part.children(recursive=True))]


@pytest.fixture
def runs(rehearsal):
    """The runs of the experiment by the output they belong to."""
    client = MlflowClient(rehearsal["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("facevae")
    found = client.search_runs([experiment.experiment_id])
    return {run.data.tags["facevae.output"].removeprefix("s3://facevae/"): run for run in found}


def test_ranks_ran_on_both_nodes(runs):
    by_rank = runs["first"].data.tags["facevae.nodes"].split(", ")
    assert sorted(by_rank) == ["127.0.0.3", "127.0.0.4"]  # Ray chooses which is rank 0


def test_everything_of_the_runs_is_in_the_bucket(rehearsal, runs):
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket="facevae")
    keys = {each["Key"] for page in pages for each in page["Contents"]}
    expected = [
        "faces/manifest.json", "faces/data/train-00000.parquet", "first/model/model.safetensors",
        "first/checkpoints/step_0000060/optimizer.pt", "first/curves.png", "first/result.json",
        "vectors/attribute_vectors.h5", "vectors/latents/train-00000.parquet",
        "vectors/statistics/train-00000.npz", "smile/edit.png",
    ]  # fmt: skip
    assert set(expected) <= keys
    artifacts = [key for key in keys if key.startswith("mlflow/")]
    run_id = runs["first"].info.run_id
    assert any(run_id in key and key.endswith("curves.png") for key in artifacts)
    assert any(key.endswith("model.safetensors") for key in artifacts)


def test_runs_name_those_whose_results_they_used(runs):
    ids = {name: run.info.run_id for name, run in runs.items()}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["first"].data.tags["facevae.shards_run"] == ids["faces"]
    assert runs["second"].data.tags["facevae.shards_run"] == ids["faces"]
    assert runs["vectors"].data.tags["facevae.training_run"] == ids["first"]
    assert runs["smile"].data.tags["facevae.training_run"] == ids["first"]
    assert runs["smile"].data.tags["facevae.attributes_run"] == ids["vectors"]


def test_jobs_runs_and_checkpoints_name_each_other(rehearsal, runs):
    headers = {"Authorization": f"Bearer {rehearsal['RAY_AUTH_TOKEN']}"}
    address = f"{rehearsal['RAY_API_SERVER_ADDRESS']}/api/jobs/second"
    job = requests.get(address, headers=headers, timeout=30).json()
    run = runs["second"]
    assert job["metadata"]["facevae.output"] == run.data.tags["facevae.output"]
    assert run.data.tags["facevae.submission_id"] == "second"
    assert storage.read_json("s3://facevae/second/run.json")["run_id"] == run.info.run_id
    checkpoint = "s3://facevae/second/checkpoints/step_0000300"
    assert storage.read_json(f"{checkpoint}/training.json")["submission_id"] == "second"
    assert storage.read_json(f"{checkpoint}/model.json")["run_id"] == run.info.run_id


def test_the_server_was_away_and_every_step_is_there_once(environment, rehearsal, runs):
    client = MlflowClient(rehearsal["MLFLOW_TRACKING_URI"])
    run = runs["second"]
    steps = int(run.data.params["training.steps"])
    every = int(run.data.params["training.log_every"])
    expected = Counter({*range(every, steps + 1, every), steps})
    for key in ("train/loss", "train/images_per_second", "train/kl"):
        history = client.get_metric_history(run.info.run_id, key)
        assert Counter(metric.step for metric in history) == expected, key
    log = Path(environment["FACEVAE_CLUSTER"], "rehearsal.log").read_text()
    killed, back = (
        1000 * float(re.search(rf"^\+ ([\d.]+) cluster/local {command} mlflow$", log, re.M)[1])
        for command in ("kill", "start")
    )
    assert back - killed >= 15_000
    times = [
        metric.timestamp for metric in client.get_metric_history(run.info.run_id, "train/loss")
    ]
    meanwhile = [time for time in times if killed < time < back]
    assert len(meanwhile) >= 3, "training went on, and what it logged then was delivered later"


@pytest.mark.parametrize("token", [None, "another-token-that-is-not-this-clusters"])
def test_a_job_without_the_token_is_refused(rehearsal, token):
    environment = {k: v for k, v in rehearsal.items() if k != "RAY_AUTH_TOKEN"}
    if token is None:
        environment |= {"RAY_AUTH_MODE": "disabled"}
    else:
        environment |= {"RAY_AUTH_TOKEN": token}
    words = ["ray", "job", "submit", "--working-dir", ".", "--", "python", "jobs/shards.py"]
    refused = subprocess.run(
        words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert re.search(r"401|[Aa]uthenticat", refused.stdout + refused.stderr)


def test_mlflow_answers_only_who_it_knows_under_its_own_name(rehearsal):
    url = f"{rehearsal['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search?max_results=1"
    login = rehearsal["MLFLOW_TRACKING_USERNAME"], rehearsal["MLFLOW_TRACKING_PASSWORD"]
    assert requests.get(url, auth=login, timeout=30).status_code == 200
    assert requests.get(url, timeout=30).status_code == 401
    assert requests.get(url, auth=(login[0], "wrong"), timeout=30).status_code == 401
    foreign = {"Host": "mlflow.example.com"}
    assert requests.get(url, auth=login, headers=foreign, timeout=30).status_code == 403


@pytest.mark.skipif(
    not shutil.which("postgres") and not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")),
    reason="Postgres is not installed",
)
def test_the_runs_are_in_postgres(environment, rehearsal):
    text = (Path(environment["FACEVAE_CLUSTER"]) / "cluster.json").read_text()
    import psycopg

    uri = re.search(r'"MLFLOW_BACKEND_STORE_URI": "(postgresql://[^"]+)"', text)
    assert uri
    with psycopg.connect(uri[1]) as connection:
        (count,) = connection.execute("SELECT count(*) FROM runs").fetchone()
    assert count == 5


def test_a_path_on_one_machines_disk_is_refused(rehearsal, tmp_path):
    refused = subprocess.run(
        ["ray", "job", "submit", "--working-dir", ".", "--", "python", "jobs/shards.py",
         "--drawn.count", "10", "--output", str(tmp_path / "here")],
        cwd=REPOSITORY, env=rehearsal, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "own disk" in refused.stdout + refused.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_two_runs_are_compared_in_the_ui(rehearsal, runs, tmp_path):
    experiment = runs["first"].info.experiment_id
    kind = urllib.parse.quote("tags.`facevae.verb` = 'train'")
    page = f"/#/experiments/{experiment}/runs?compareRunsMode=CHART&searchFilter={kind}"
    picture = tmp_path / "compare.png"
    text = screenshot(
        rehearsal["MLFLOW_TRACKING_URI"] + page,
        picture,
        (rehearsal["MLFLOW_TRACKING_USERNAME"], rehearsal["MLFLOW_TRACKING_PASSWORD"]),
        ready="document.body.innerText.includes('(train/loss)')",
    )
    for words in ("first (train/loss)", "second (train/loss)", "2 matching runs"):
        assert words in text
    assert Image.open(picture).width == 1600
