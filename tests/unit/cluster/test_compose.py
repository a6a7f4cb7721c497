"""The compose file: its schema, a security linter, and what its services need of one another."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml


def tool(name: str) -> str:
    """A development tool beside the running Python."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        pytest.skip(f"{name} is not installed here; pip install '.[dev]' has it")
    return str(path)


@pytest.fixture(scope="module")
def file(cluster_folder) -> Path:
    return cluster_folder / "compose.yaml"


@pytest.fixture(scope="module")
def services(file):
    return yaml.safe_load(file.read_text())["services"]


def check(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def schema_check(file: Path) -> subprocess.CompletedProcess[str]:
    return check(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(file))


def test_compose_accepts_the_file(file):
    result = schema_check(file)
    assert result.returncode == 0, result.stdout


def test_a_misspelt_key_is_refused(file, tmp_path):
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(file.read_text().replace("shm_size:", "shm_sizes:"))
    assert schema_check(wrong).returncode == 1


def lint(file: Path, config: Path) -> subprocess.CompletedProcess[str]:
    return check(
        tool("compose-lint"), "check", "--fail-on", "low", "--strict-config",
        "--config", str(config), str(file),
    )  # fmt: skip


def test_the_linter_finds_nothing_without_a_stated_reason(file):
    result = lint(file, file.with_name(".compose-lint.yml"))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("cap_drop: [ALL]", "cap_add: [SYS_ADMIN]"),
        ('ports: ["127.0.0.1:8265:8265"]', 'ports: ["8265:8265"]'),
        ("    pids_limit: 512\n", "    privileged: true\n"),
    ],
)
def test_the_linter_finds_what_is_unsafe(file, tmp_path, before, after):
    wrong = tmp_path / "compose.yaml"
    assert before in file.read_text()
    wrong.write_text(file.read_text().replace(before, after, 1))
    assert lint(wrong, file.with_name(".compose-lint.yml")).returncode == 1


def test_ports_are_published_on_loopback_alone(services):
    ports = [port for each in services.values() for port in each.get("ports", ())]
    assert len(ports) == 3
    for port in ports:
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)


def test_services_wait_for_healthy_ones(services):
    for name, service in services.items():
        for other, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for {other}"
            else:
                assert wanted == {"condition": "service_completed_successfully"}
                assert services[other]["restart"] == "on-failure"  # one that ends


def test_the_gpus_go_to_ray(services):
    reserved = {
        name: service["deploy"]["resources"]["reservations"]["devices"]
        for name, service in services.items()
        if "deploy" in service
    }
    assert reserved == {"ray": [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]}


def test_secrets_have_no_default_and_are_listed_in_the_example(file, cluster_folder):
    used = re.findall(r"\$\{([A-Z0-9_]+)(:[-?])?", file.read_text())
    example = (cluster_folder / "compose.example.env").read_text()
    listed = set(re.findall(r"^#?([A-Z0-9_]+)=", example, re.MULTILINE))
    assert {name for name, _ in used} == listed
    for name, kind in used:
        secret = any(word in name for word in ("TOKEN", "PASSWORD", "KEY", "USERNAME"))
        assert (kind == ":?") == secret, name


def test_the_server_is_reached_by_the_names_it_allows(services):
    allowed = services["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    uri = services["ray"]["environment"]["MLFLOW_TRACKING_URI"]
    assert uri.removeprefix("http://") in allowed
    for host in ("localhost", "127.0.0.1"):  # through the published port
        assert f"{host}:5000" in allowed


def test_the_bucket_is_made_once_and_again_without_harm(services, monkeypatch):
    """The very program of the service, against an S3 store of this process."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in services["bucket"]["environment"].items():
        monkeypatch.setenv(name, value if not value.startswith("${") else "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    interpreter, flag, program = services["bucket"]["command"]
    assert (interpreter, flag) == ("python", "-c")
    try:
        for _ in range(2):
            assert check(sys.executable, "-c", program).returncode == 0
        listing = "import fsspec; print(fsspec.filesystem('s3').ls(''))"
        assert check(sys.executable, "-c", listing).stdout.strip() == "['facevae']"
    finally:
        server.stop()
    destination = services["mlflow"]["environment"]["MLFLOW_ARTIFACTS_DESTINATION"]
    assert destination.startswith("s3://facevae/")
