"""What the Kubernetes resources refer to exists, under the name that they use."""

import re

import yaml


def references(value, key=""):
    """(kind, name, key or None) of every secret and config map in a value."""
    if isinstance(value, dict):
        for kind in ("secretKeyRef", "configMapKeyRef"):
            if kind in value:
                yield kind.removesuffix("KeyRef"), value[kind]["name"], value[kind]["key"]
        for kind in ("secretRef", "configMapRef"):
            if kind in value:
                yield kind.removesuffix("Ref"), value[kind]["name"], None
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def example_keys(cluster_folder):
    """The keys of each secret, by the example file that makes it."""
    return {
        f"facevae-{file.name.removesuffix('.example.env')}": set(
            re.findall(r"^#?([A-Z_]+)=", file.read_text(), re.MULTILINE)
        )
        for file in (cluster_folder / "kuberay" / "secrets").iterdir()
    }


def test_every_secret_and_config_map_that_is_used_exists(standing, runs, cluster_folder):
    secrets = example_keys(cluster_folder)
    maps = {each["metadata"]["name"] for each in standing["ConfigMap"]}
    used = {reference for each in standing.all() + runs.all() for reference in references(each)}
    for kind, name, key in used:
        if kind == "configMap":
            assert name in maps
        else:
            assert name in secrets
            assert key is None or key in secrets[name]
    assert {name for kind, name, _ in used if kind == "secret"} == set(secrets)


def test_the_server_gets_every_variable_that_it_reads(standing, cluster_folder):
    (deployment,) = standing["Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    secrets = example_keys(cluster_folder)
    given = {each["name"] for each in container["env"]}
    for source in container["envFrom"]:
        given |= secrets[source["secretRef"]["name"]]
    assert given >= {
        "MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION", "MLFLOW_SERVER_ALLOWED_HOSTS",
        "MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD",
        "MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_HOST", "MLFLOW_PORT",
    }  # fmt: skip
    # $(NAME) is filled in from the variables before it only.
    names = [each["name"] for each in container["env"]]
    assert names.index("POSTGRES_PASSWORD") < names.index("MLFLOW_BACKEND_STORE_URI")


def test_service_accounts_and_services_exist_under_the_names_used(standing, runs, pods):
    accounts = {each["metadata"]["name"] for each in standing["ServiceAccount"]}
    used = {pod.spec.get("serviceAccountName") for pod in pods} - {None}
    assert used == accounts
    services = {each["metadata"]["name"]: each["spec"] for each in standing["Service"]}
    text = yaml.safe_dump_all(standing.all() + runs.all())
    hosts = set(re.findall(r"(?://|@)(facevae-[a-z]+):(\d+)", text))
    assert {host for host, _ in hosts} == set(services)
    for host, port in hosts:
        assert [each["port"] for each in services[host]["ports"]] == [int(port)]


def test_services_find_pods_with_the_port(standing, pods):
    for service in standing["Service"]:
        selector = service["spec"]["selector"].items()
        (pod,) = (pod for pod in pods if selector <= pod.labels.items())
        ports = {each["name"] for each in pod.spec["containers"][0]["ports"]}
        assert {each["targetPort"] for each in service["spec"]["ports"]} <= ports


def test_the_servers_allowed_hosts_are_its_service_names(standing):
    (deployment,) = standing["Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (value,) = (e["value"] for e in container["env"] if e["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS")
    (nodes,) = standing["ConfigMap"]
    host = nodes["data"]["MLFLOW_TRACKING_URI"].removeprefix("http://")
    namespace = deployment["metadata"]["namespace"]
    name, port = host.split(":")
    assert {host, f"{name}.{namespace}.svc.cluster.local:{port}"} <= set(value.split(","))
