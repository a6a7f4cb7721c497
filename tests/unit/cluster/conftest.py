"""The files of `cluster/`, read once."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

REPOSITORY = Path(__file__).parents[3]
CLUSTER = REPOSITORY / "cluster"
Resource = dict[str, Any]


class Resources(dict[str, list[Resource]]):
    """Kubernetes resources by their kind."""

    @classmethod
    def of(cls, documents: list[Resource]) -> "Resources":
        resources = cls()
        for each in documents:
            resources.setdefault(each["kind"], []).append(each)
        return resources

    def all(self) -> list[Resource]:
        return [each for kind in self.values() for each in kind]


class Pod(NamedTuple):
    """A pod that a resource describes: the resource's name, the pod's labels and specification."""

    owner: str
    labels: dict[str, str]
    spec: Resource


@pytest.fixture(scope="session")
def cluster_folder() -> Path:
    return CLUSTER


@pytest.fixture(scope="session")
def locked() -> dict[str, str]:
    """The version of each package in requirements.lock, by its normalised name."""
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    pairs = (line.partition(";")[0].strip().split("==") for line in lines if "==" in line)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}


@pytest.fixture(scope="session")
def written() -> Resources:
    """The Kubernetes resources as they are written, before kustomize joins them."""
    files = sorted((CLUSTER / "kuberay").rglob("*.yaml"))
    documents = [each for file in files for each in yaml.safe_load_all(file.read_text())]
    return Resources.of([e for e in documents if not e["apiVersion"].startswith("kustomize")])


def _built(folder: Path) -> list[Resource]:
    """What kustomize makes of a folder."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl, which has kustomize in it, is not installed")
    command = [kubectl, "kustomize", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))


@pytest.fixture(scope="session")
def standing() -> Resources:
    """The resources of `kubectl apply -k cluster/kuberay`."""
    return Resources.of(_built(CLUSTER / "kuberay"))


@pytest.fixture(scope="session")
def runs() -> Resources:
    """The resources of the jobs."""
    jobs = CLUSTER / "kuberay" / "jobs"
    return Resources.of(_built(jobs) + _built(jobs / "shards"))


@pytest.fixture(scope="session")
def ray_specs(standing, runs) -> dict[str, Resource]:
    """The specification of each Ray cluster by name, that of each job's own cluster too."""
    specs = {each["metadata"]["name"]: each["spec"] for each in standing["RayCluster"]}
    for run in runs["RayJob"]:
        specs[run["metadata"]["name"]] = run["spec"]["rayClusterSpec"]
    assert set(specs) == {"facevae", "facevae-shards", "facevae-train", "facevae-attributes"}
    return specs


@pytest.fixture(scope="session")
def pods(standing, runs, ray_specs) -> list[Pod]:
    """Every pod that the resources describe."""
    owners = [
        (each["metadata"]["name"], each["spec"]["template"])
        for each in standing["Deployment"] + standing["StatefulSet"]
    ]
    owners += [
        (name, group["template"])
        for name, spec in ray_specs.items()
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])
    ]
    owners += [(e["metadata"]["name"], e["spec"]["submitterPodTemplate"]) for e in runs["RayJob"]]
    assert len(owners) == 3 + 4 * 4 + 3
    return [Pod(name, pod["metadata"]["labels"], pod["spec"]) for name, pod in owners]


@pytest.fixture(scope="session")
def containers(pods) -> list[tuple[str, Resource]]:
    """(owner, container) of every container of the pods."""
    return [(pod.owner, each) for pod in pods for each in pod.spec["containers"]]
