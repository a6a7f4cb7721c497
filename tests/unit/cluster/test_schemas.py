"""Every Kubernetes resource against its schema, in which an unknown field is an error."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

SCHEMAS = Path(__file__).parents[4] / "shared" / "schemas"
RAY_KINDS = ("RayCluster", "RayJob")


def closed(schema: Any) -> Any:
    """A schema of Kubernetes that refuses the fields which it does not name.

    The server drops them without a word, and a misspelt setting with them.
    """
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: closed(value) for key, value in schema.items()}
    is_object = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if is_object and not is_open:
        strict["additionalProperties"] = False
    return strict


def crd_schema(kind: str) -> Any:
    file = SCHEMAS / f"ray.io_{kind.lower()}s.yaml"
    if not file.exists():
        pytest.skip(f"KubeRay's description of {kind} is not beside the repository: {file}")
    versions = yaml.safe_load(file.read_text())["spec"]["versions"]
    (version,) = (each for each in versions if each["name"] == "v1")
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # checked as Kubernetes' own
    return schema


@pytest.fixture(scope="session")
def crds():
    return {kind: crd_schema(kind) for kind in RAY_KINDS}


def problems(schema, resource) -> list[str]:
    from jsonschema import Draft202012Validator

    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in Draft202012Validator(schema).iter_errors(resource)
    ]


def test_kubernetes_accepts_its_own_kinds(written, standing, runs):
    validate = pytest.importorskip("kubernetes_validate").validate
    resources = written.all() + standing.all() + runs.all()
    own = [each for each in resources if each["kind"] not in RAY_KINDS]
    assert {each["kind"] for each in own} >= {"Deployment", "StatefulSet", "NetworkPolicy"}
    for resource in own:
        validate(resource, "1.33", strict=True)


def test_a_misspelt_field_of_kubernetes_is_refused(written):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    (deployment,) = written["Deployment"]
    deployment = deployment | {"spec": deployment["spec"] | {"replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(deployment, "1.33", strict=True)


@pytest.mark.parametrize("kind", RAY_KINDS)
def test_kuberay_accepts_what_is_written(written, crds, kind):
    for resource in written[kind]:
        assert not problems(crds[kind], resource)


@pytest.mark.parametrize("kind", RAY_KINDS)
def test_kuberay_accepts_what_kustomize_builds(standing, runs, crds, kind):
    built = [each for each in standing.all() + runs.all() if each["kind"] == kind]
    assert built
    for resource in built:
        assert not problems(crds[kind], resource)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec", {"headGroupSpecs": {}}),
        ("spec.autoscalerOptions", {"version": "v3"}),
        ("spec.headGroupSpec.template.spec", {"securityContexts": {}}),
        ("spec.headGroupSpec.template.spec.containers.0.resources", {"limit": {}}),
        ("spec.workerGroupSpecs.0", {"maxReplicas": "many"}),
        ("spec.gcsFaultToleranceOptions.redisPassword", {"secretKeyRef": {}}),
    ],
)
def test_a_wrong_field_of_a_cluster_is_found(written, crds, path, value):
    (cluster,) = written["RayCluster"]
    cluster = copy.deepcopy(cluster)
    place = cluster
    for step in path.split("."):
        place = place[int(step)] if step.isdigit() else place[step]
    place.update(value)
    assert problems(crds["RayCluster"], cluster)
