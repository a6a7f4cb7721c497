"""Who reaches whom on Kubernetes."""

import pytest

RAY_LABELS = [
    {"ray.io/is-ray-node": "yes", "ray.io/node-type": kind} for kind in ("head", "worker")
]
"""what the operator writes on its pods"""
OPERATOR_JOBS = [{"ray.io/node-type": "redis-cleanup"}]
CLIENT = {"facevae-client": "true"}


def selects(selector, labels) -> bool:
    """Whether a label selector of Kubernetes takes a pod."""
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for rule in selector.get("matchExpressions", ()):
        assert rule["operator"] == "In"
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return True


def is_open(policies, source, target, port) -> bool:
    """Whether a pod reaches a port of another pod in the namespace."""
    chosen = [each["spec"] for each in policies if selects(each["spec"]["podSelector"], target)]
    assert chosen, "a pod under no policy is open to all"
    return any(
        any(
            "namespaceSelector" not in peer and selects(peer["podSelector"], source)
            for peer in rule["from"]
        )
        and ("ports" not in rule or port in [each["port"] for each in rule["ports"]])
        for policy in chosen
        for rule in policy.get("ingress", ())
    )


def component(name):
    return {"app.kubernetes.io/part-of": "facevae", "app.kubernetes.io/component": name}


HEAD, WORKER = ({**component("ray"), **labels} for labels in RAY_LABELS)
MLFLOW, POSTGRES, REDIS = (component(name) for name in ("mlflow", "postgres", "redis"))
STRANGER = {"app": "anything"}


@pytest.mark.parametrize(
    ("source", "target", "port", "open_"),
    [
        (WORKER, HEAD, 6379, True),
        (HEAD, WORKER, 8076, True),
        (WORKER, WORKER, 31000, True),
        (STRANGER, HEAD, 8265, False),
        (STRANGER, HEAD, 6379, False),
        (CLIENT, HEAD, 8265, True),
        (CLIENT, HEAD, 6379, False),
        (CLIENT, WORKER, 8265, False),
        (MLFLOW, HEAD, 8265, False),
        (HEAD, MLFLOW, 5000, True),
        (WORKER, MLFLOW, 5000, True),
        (CLIENT, MLFLOW, 5000, True),
        (STRANGER, MLFLOW, 5000, False),
        (MLFLOW, POSTGRES, 5432, True),
        (HEAD, POSTGRES, 5432, False),
        (CLIENT, POSTGRES, 5432, False),
        (HEAD, REDIS, 6379, True),
        (OPERATOR_JOBS[0], REDIS, 6379, True),
        (WORKER, REDIS, 6379, False),
        (MLFLOW, REDIS, 6379, False),
        (STRANGER, STRANGER, 80, False),
    ],
)
def test_the_network_is_open_where_it_must_be(standing, source, target, port, open_):
    assert is_open(standing["NetworkPolicy"], source, target, port) == open_


def test_every_policy_but_the_denial_takes_pods_that_exist(standing, pods):
    everyone = [pod.labels for pod in pods] + RAY_LABELS
    for policy in standing["NetworkPolicy"]:
        spec = policy["spec"]
        assert spec["policyTypes"] == ["Ingress"]
        if policy["metadata"]["name"] == "deny-ingress":
            assert spec["podSelector"] == {}
            assert "ingress" not in spec
            continue
        assert any(selects(spec["podSelector"], labels) for labels in everyone)
        for rule in spec["ingress"]:
            for peer in rule["from"]:
                assert "namespaceSelector" in peer or any(
                    selects(peer["podSelector"], labels) for labels in everyone
                )


def test_the_pods_that_submit_jobs_are_clients(runs):
    for job in runs["RayJob"]:
        labels = job["spec"]["submitterPodTemplate"]["metadata"]["labels"]
        assert CLIENT.items() <= labels.items()


def test_all_lives_in_a_namespace_that_refuses_pods_with_rights(standing, runs):
    (namespace,) = standing["Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [each for each in standing.all() + runs.all() if each is not namespace]
    assert {each["metadata"].get("namespace") for each in others} == {namespace["metadata"]["name"]}
