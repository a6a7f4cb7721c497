"""The files for `ray up`, against Ray's checks and the clouds' descriptions of their calls."""

import json
import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
import ray
import yaml

FILES = ("aws", "gcp", "onprem")
CLOUDS = ("aws", "gcp")


@pytest.fixture(params=FILES)
def name(request) -> str:
    return request.param


@pytest.fixture
def config(cluster_folder, name):
    return yaml.safe_load((cluster_folder / f"{name}.yaml").read_text())


def prepared(config):
    """The configuration as Ray completes and checks it before it starts anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    complete = prepare_config(config)
    validate_config(complete)
    return complete


def cloud(cluster_folder, name):
    return yaml.safe_load((cluster_folder / f"{name}.yaml").read_text())


def test_ray_accepts_the_file_as_it_is_and_as_it_completes_it(config):
    from jsonschema import Draft7Validator

    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    assert not [error.message for error in Draft7Validator(schema).iter_errors(config)]
    prepared(config)


def test_a_key_that_ray_does_not_know_is_refused(config):
    from jsonschema import ValidationError

    with pytest.raises(ValidationError, match="idle_timeout"):
        prepared(config | {"idle_timeout": 5})


def start_commands(config):
    head = [each for each in config["head_start_ray_commands"] if "ray start" in each]
    worker = [each for each in config["worker_start_ray_commands"] if "ray start" in each]
    assert len(head) == len(worker) == 1
    return head[0], worker[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray Serve, which the import loads
def test_every_option_of_ray_start_exists(config):
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    for command in start_commands(config):
        options = re.findall(r"(--[a-z-]+)", command.partition("ray start")[2].partition("$(")[0])
        assert options
        assert not set(options) - known


def test_nodes_start_with_the_token_and_the_dashboard_on_loopback(config):
    head, worker = start_commands(config)
    for command in (head, worker):
        assert (
            "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/etc/facevae/auth_token ray start" in command
        )
        assert "unset OMP_NUM_THREADS" in command
        assert "ulimit -n 65536" in command
        assert "--object-store-memory" not in command
    assert "--head " in head
    assert "--num-cpus=0" in head
    assert "--dashboard-host=127.0.0.1" in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    port = re.search(r"--port=(\d+)", head)[1]
    assert f"--address=$RAY_HEAD_IP:{port}" in worker


def test_secrets_come_from_a_folder_of_the_user_and_are_read_by_every_command(config):
    assert config["file_mounts"] == {"/etc/facevae": "~/.config/facevae/nodes"}
    (setup,) = config["setup_commands"]
    assert ". /etc/facevae/cluster.env" in setup
    assert setup.endswith("> ~/.bashrc")
    for kind in ("head", "worker"):
        assert config[f"{kind}_setup_commands"] == []  # the image has everything
        assert config[f"{kind}_start_ray_commands"][0].startswith("test -r /etc/facevae/auth_token")


def test_the_bashrc_exports_the_token_and_the_environment(config, tmp_path):
    """What `ray up` runs on a node, run here with another folder for /etc/facevae."""
    (tmp_path / "cluster.env").write_text("MLFLOW_TRACKING_URI=http://mlflow:5000\n")
    setup = config["setup_commands"][0].replace("/etc/facevae", str(tmp_path))
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    show = "bash -c '. ~/.bashrc; env'"
    shown = subprocess.run(
        ["bash", "-c", f"{setup}; {show}"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert "MLFLOW_TRACKING_URI=http://mlflow:5000" in shown
    assert "RAY_AUTH_MODE=token" in shown
    assert f"RAY_AUTH_TOKEN_PATH={tmp_path}/auth_token" in shown


def test_the_image_is_ours_to_fill_in_and_runs_with_shared_memory(config, name):
    docker = config["docker"]
    assert docker["image"].startswith("FILL-IN/facevae:")
    options = docker["run_options"]
    assert "--security-opt=no-new-privileges" in options
    size = next(re.search(r"--shm-size=(\d+)gb", each) for each in options if "shm" in each)
    largest_memory_gb = {"aws": 32, "gcp": 64, "onprem": 192}[name]
    assert int(size[1]) >= 0.3 * largest_memory_gb


@pytest.mark.parametrize("name", CLOUDS, indirect=True)
def test_pools_have_labels_spot_and_idle_timeout(config, name):
    types = config["available_node_types"]
    assert set(types) == {"head", "gpu-spot", "gpu-on-demand", "data"}
    assert types["head"]["resources"] == {"CPU": 0}
    assert config["head_node_type"] == "head"
    assert 0 < config["idle_timeout_minutes"] <= 30
    for pool, labels in {
        "gpu-spot": {"facevae-pool": "gpu", "facevae-capacity": "spot"},
        "gpu-on-demand": {"facevae-pool": "gpu", "facevae-capacity": "on-demand"},
        "data": {"facevae-pool": "data", "facevae-capacity": "spot"},
    }.items():
        assert types[pool]["labels"] == labels
        assert types[pool]["min_workers"] == 0 < types[pool]["max_workers"]
        assert ("GPU" in types[pool]["resources"]) == (labels["facevae-pool"] == "gpu")
        assert is_spot(types[pool]["node_config"], name) == (labels["facevae-capacity"] == "spot")


def is_spot(node_config, name) -> bool:
    if name == "aws":
        return node_config.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    return node_config.get("scheduling", {}).get("provisioningModel") == "SPOT"


def test_on_prem_workers_are_labelled_by_what_they_have(cluster_folder, tmp_path):
    _, worker = start_commands(cloud(cluster_folder, "onprem"))
    label = re.search(r"--labels=(\S+\$\(.*\))$", worker.strip())[1]

    def pool(path: str) -> str:
        command = ["/bin/bash", "-c", f"echo {label}"]
        return subprocess.run(
            command, env={"PATH": path}, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert pool(str(tmp_path)) == "facevae-pool=data"
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho GPU 0\n")
    tool.chmod(0o755)
    assert pool(str(tmp_path)) == "facevae-pool=gpu"


# --- what the clouds say of the calls that Ray makes ---------------------------------------------


def test_ec2_accepts_every_instance(cluster_folder):
    botocore = pytest.importorskip("botocore", reason="boto3 is not installed")
    import_module("botocore.session")
    client = botocore.session.get_session().create_client(
        "ec2", region_name="us-west-2", aws_access_key_id="none", aws_secret_access_key="none"
    )
    shape = client.meta.service_model.operation_model("RunInstances").input_shape
    validator = import_module("botocore.validate").ParamValidator()
    for node_type in cloud(cluster_folder, "aws")["available_node_types"].values():
        call = node_type["node_config"] | {"MinCount": 1, "MaxCount": 1}
        report = validator.validate(call, shape)
        assert not report.has_errors(), report.generate_report()
        assert "Name" in node_type["node_config"]["IamInstanceProfile"]
        assert node_type["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}


@pytest.fixture(scope="session")
def compute_schemas():
    """The types of the Compute Engine API, as Google's own client has them."""
    package = pytest.importorskip(
        "googleapiclient", reason="google-api-python-client is not installed"
    )
    documents = Path(package.__file__).parent / "discovery_cache/documents"
    return json.loads((documents / "compute.v1.json").read_text())["schemas"]


def unknown_to_google(value, schema, schemas, where="") -> list[str]:
    """The places in a value that a type of the API does not allow."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    if schema["type"] == "object" and isinstance(value, dict):
        known = schema.get("properties", {})
        return [
            problem
            for key, each in value.items()
            for problem in (
                unknown_to_google(each, known[key], schemas, f"{where}.{key}")
                if key in known
                else [f"{where}.{key}"]
            )
        ]
    if schema["type"] == "array" and isinstance(value, list):
        return [
            problem
            for index, each in enumerate(value)
            for problem in unknown_to_google(each, schema["items"], schemas, f"{where}[{index}]")
        ]
    if value not in schema.get("enum", [value]):
        return [f"{where}: {value}"]
    kinds = {"string": (str, int), "boolean": bool, "integer": int, "number": (int, float)}
    fits = isinstance(value, kinds.get(schema["type"], ()))
    return [] if fits else [f"{where} is no {schema['type']}"]


def test_compute_engine_accepts_every_instance(cluster_folder, compute_schemas):
    instance = compute_schemas["Instance"]
    for node_type in cloud(cluster_folder, "gcp")["available_node_types"].values():
        config = node_type["node_config"]
        assert not unknown_to_google(config, instance, compute_schemas)
        assert config["serviceAccounts"]
        if "GPU" in node_type["resources"]:
            assert config["scheduling"]["onHostMaintenance"] == "TERMINATE"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"scheduling": [{"preemptible": True}]}, ".scheduling is no object"),
        ({"scheduling": {"provisioningModel": "CHEAP"}}, ".scheduling.provisioningModel: CHEAP"),
        ({"machine": "n2"}, ".machine"),
    ],
)
def test_what_compute_engine_does_not_know_is_found(compute_schemas, change, problem):
    assert unknown_to_google(change, compute_schemas["Instance"], compute_schemas) == [problem]


def test_nvidias_runtime_is_told_to_give_the_gpus(config):
    options = config["docker"]["run_options"]
    assert "--env=NVIDIA_VISIBLE_DEVICES=all" in options
    assert "--env=NVIDIA_DRIVER_CAPABILITIES=compute,utility" in options


def test_all_groups_fit_below_the_limit_of_the_cluster(config):
    groups = config.get("available_node_types", {})  # the machines on site are a list
    assert sum(group.get("max_workers", 0) for group in groups.values()) <= config.get(
        "max_workers", 0
    )
