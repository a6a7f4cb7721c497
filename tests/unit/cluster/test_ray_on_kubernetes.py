"""The Ray clusters and jobs on Kubernetes, against what no schema can hold.

The operator's own rules are those of ValidateRayClusterSpec and ValidateRayJobSpec in KubeRay.
"""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from facevae.cli import parse

REPOSITORY = Path(__file__).parents[3]
POOL = "facevae-pool"


@pytest.fixture(scope="module")
def with_nodes(cluster_folder):
    """The parser of the program that the entry points start with."""
    return runpy.run_path(str(cluster_folder / "with_nodes.py"))["_options"]


def groups(spec):
    """The head and the worker groups of a cluster."""
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def test_clusters_authenticate_and_scale_by_version_2(ray_specs, locked):
    for spec in ray_specs.values():
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["rayVersion"] == locked["ray"]
        assert spec["enableInTreeAutoscaling"] is True
        assert spec["autoscalerOptions"]["version"] == "v2"
        for group in groups(spec):
            # The autoscaler replaces pods; version 2 refuses pods that restart in place.
            assert group["template"]["spec"].get("restartPolicy", "Never") == "Never"
            assert "labels" not in group["rayStartParams"]


def test_pools_are_labelled_and_placed_by_the_same_labels(ray_specs):
    for spec in ray_specs.values():
        head, *workers = groups(spec)
        assert head["rayStartParams"]["num-cpus"] == "0"
        labels = {each["groupName"]: each["labels"] for each in workers}
        assert labels == {
            "gpu-spot": {POOL: "gpu", "facevae-capacity": "spot"},
            "gpu-on-demand": {POOL: "gpu", "facevae-capacity": "on-demand"},
            "data": {POOL: "data"},
        }
        for group in workers:
            assert group["template"]["spec"]["nodeSelector"] == group["labels"]
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            (container,) = group["template"]["spec"]["containers"]
            is_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
            assert is_gpu == (group["labels"][POOL] == "gpu")
        priority = {each["groupName"]: each.get("priority", 0) for each in workers}
        assert priority["gpu-spot"] > priority["gpu-on-demand"]


def test_only_the_lasting_cluster_keeps_its_tables(ray_specs):
    specs = dict(ray_specs)
    options = specs.pop("facevae")["gcsFaultToleranceOptions"]
    assert set(options["redisPassword"]) == {"valueFrom"}
    assert not any("gcsFaultToleranceOptions" in spec for spec in specs.values())


def test_a_failed_job_is_tried_again_on_a_cluster_of_its_own(runs):
    jobs = runs["RayJob"]
    assert {each["metadata"]["labels"]["facevae-job"] for each in jobs} == {
        "shards", "train", "attributes",
    }  # fmt: skip
    for job in jobs:
        spec = job["spec"]
        assert spec["backoffLimit"] > 0
        assert "clusterSelector" not in spec  # the operator refuses it beside backoffLimit
        assert spec["shutdownAfterJobFinishes"] is True  # ttlSecondsAfterFinished needs it
        assert spec["submissionMode"] == "K8sJobMode"  # others take no submitterPodTemplate
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", job["metadata"]["name"])


def test_entry_points_are_commands_that_accept_their_options(runs, with_nodes):
    seen = set()
    for job in runs["RayJob"]:
        words = shlex.split(job["spec"]["entrypoint"].replace("FILL-IN", "bucket"))
        assert words[:2] == ["python", "cluster/with_nodes.py"]
        options = with_nodes(words[2:])
        interpreter, script, *arguments = options.command
        assert interpreter == "python"
        assert (REPOSITORY / script).is_file()
        command = Path(script).stem
        config = parse(command, arguments)
        assert config.output.startswith("s3://")  # a retry's new cluster has no old disk
        if command == "train":
            assert config.scaling.workers == options.gpus
        if command == "attributes":
            assert config.encoding.actors == options.gpus
        seen.add(command)
    assert seen == {"shards", "train", "attributes"}


def test_what_a_job_asks_for_fits_in_its_pools(runs, with_nodes):
    for job in runs["RayJob"]:
        options = with_nodes(shlex.split(job["spec"]["entrypoint"])[2:])
        largest = {}
        for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
            (container,) = group["template"]["spec"]["containers"]
            limits = container["resources"]["limits"]
            amount = int(limits.get("nvidia.com/gpu", limits["cpu"]))
            largest[group["groupName"]] = group["maxReplicas"] * amount
        assert options.gpus <= largest["gpu-spot"]
        assert options.cpus <= largest["data"]
