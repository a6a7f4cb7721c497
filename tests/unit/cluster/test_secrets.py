"""Nothing under `cluster/` holds a secret; what must be filled in says so."""

import re
from pathlib import Path

import pytest
import yaml

SECRET_NAME = re.compile(r"TOKEN|PASSWORD|SECRET|ACCESS_KEY|USERNAME", re.IGNORECASE)
SECRET_VALUE = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----|\b[0-9a-f]{32,}\b|\bhf_\w{20,}"
    r"|://[^/\s:$]+:(?!PASSWORD@|\{)[^@\s$]+@"
)
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}")
HARMLESS = {"/etc/facevae/auth_token", "token", "required"}


def found(text: str) -> list[str]:
    """The parts of a text that look like a secret."""
    return SECRET_VALUE.findall(DIGEST.sub("", text))


def values(node, key=""):
    """(key, text) of every value in YAML; an entry of an `env` list counts under its name."""
    if isinstance(node, dict):
        for name, each in node.items():
            yield from values(each, node["name"] if name == "value" and "name" in node else name)
    elif isinstance(node, list):
        for each in node:
            yield from values(each, key)
    else:
        yield str(key), str(node)


def files(folder: Path) -> list[Path]:
    listed = [each for each in folder.rglob("*") if each.is_file()]
    return [each for each in listed if "__pycache__" not in each.parts]


def named_secrets(text: str) -> list[str]:
    """The secrets by name that a YAML text gives a value rather than a reference."""
    return [
        f"{key}={value}"
        for document in yaml.safe_load_all(text)
        for key, value in values(document)
        if SECRET_NAME.search(key) and not re.match(r"\$[{(]", value)
        if value not in HARMLESS and not re.fullmatch(r"facevae-\w+|[A-Z_]+|True|False", value)
    ]


def test_no_file_holds_what_looks_like_a_secret(cluster_folder):
    assert not {
        str(each): found(each.read_text())
        for each in files(cluster_folder)
        if found(each.read_text())
    }


def test_no_yaml_gives_a_secret_a_value(cluster_folder):
    for file in cluster_folder.rglob("*.y*ml"):
        assert not named_secrets(file.read_text()), file


@pytest.mark.parametrize(
    "text",
    [
        "RAY_AUTH_TOKEN: opensesame",
        "env: [{name: POSTGRES_PASSWORD, value: geheim}]",
        "redisPassword: {value: geheim}",
    ],
)
def test_a_secret_by_name_is_found(text):
    document = text.replace("{value: geheim}", "geheim")
    assert named_secrets(document)


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "postgresql://mlflow:" + "geheim@db:5432/mlflow",
        "key " + "0123456789abcdef" * 2,
    ],
)
def test_a_secret_by_form_is_found(text):
    assert found(text)


def test_examples_leave_secrets_empty(cluster_folder):
    examples = list(cluster_folder.rglob("*.example.env"))
    assert len(examples) == 7
    for file in examples:
        for name, value in re.findall(r"^#?([A-Z0-9_]+)=(.*)$", file.read_text(), re.MULTILINE):
            assert not (SECRET_NAME.search(name) and value), f"{file}: {name}"


def test_the_header_says_that_there_is_something_to_fill_in(cluster_folder):
    for file in cluster_folder.rglob("*.yaml"):
        text = file.read_text()
        header = re.match(r"(#.*\n)*", text)[0]
        body = text.removeprefix(header)
        folder = "".join(each.read_text() for each in file.parent.glob("kustomization.yaml"))
        assert ("FILL-IN" not in body) or "FILL-IN" in header + folder, file
