"""The commands of cluster/README.md: their programs, options, files and settings exist."""

import re
import runpy
import shlex
import subprocess
from pathlib import Path

import pytest

from facevae.cli import parse

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def text(cluster_folder) -> str:
    return (cluster_folder / "README.md").read_text()


@pytest.fixture(scope="module")
def commands(text) -> list[str]:
    """The commands, each in one line; those of `bash` blocks are run, by the rehearsal's test."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    shown = "".join(block for language, block in blocks if not language)
    return re.sub(r"\\\n\s*", "", shown).splitlines()


def test_the_settings_that_are_shown_are_ones_that_the_commands_take(commands, cluster_folder):
    options_of = runpy.run_path(str(cluster_folder / "with_nodes.py"))["_options"]
    names = []
    for command in commands:
        if not re.search(r"jobs/\w+\.py|\.venv/bin/facevae", command):
            continue
        words = shlex.split(command.replace("$BUCKET", "bucket"), comments=True)
        if "cluster/with_nodes.py" in words:
            words = options_of(words[words.index("cluster/with_nodes.py") + 1 :]).command
        if ".venv/bin/facevae" in words:
            name, arguments = words[1], words[2:]
        else:
            script = next(each for each in words if each.startswith("jobs/"))
            assert (REPOSITORY / script).is_file()
            name, arguments = Path(script).stem, words[words.index(script) + 1 :]
        parse(name, arguments)
        names.append(name)
    assert sorted(names) == ["attributes", "shards", "shards", "train", "train"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray Serve, which the import loads
def test_the_commands_of_ray_exist_with_their_options(commands):
    from ray.scripts.scripts import cli

    seen = set()
    for command in commands:
        for words in re.findall(r"\.venv/bin/ray ([a-z-]+(?: .*)?)$", command):
            first, *rest = shlex.split(
                words.partition(" -- ")[0].partition(" > ")[0], comments=True
            )
            found = cli.commands[first]
            if hasattr(found, "commands"):
                found = found.commands[rest[0]]
            known = {option for parameter in found.params for option in parameter.opts}
            assert {each for each in rest if each.startswith("--")} <= known, command
            seen.add(found.name)
    assert {"up", "down", "dashboard", "exec", "submit", "logs", "status", "stop"} <= seen


def test_the_files_and_sections_that_are_named_exist(text, cluster_folder):
    paths = set(re.findall(r"(?<![\w/.~])cluster/[\w./-]+\w", text))
    assert len(paths) >= 8
    for path in paths:
        assert (REPOSITORY / path.replace("$name", "redis")).exists(), path
    sections = {
        line[3:].lower().replace(" ", "-") for line in text.splitlines() if line[:3] == "## "
    }
    links = re.findall(r"\]\(#([\w-]+)\)", text)
    assert links
    assert set(links) <= sections


def test_no_file_that_sed_fills_in_is_left_with_a_gap(commands):
    variables = "REGISTRY=registry.test/me; PROJECT=project; BUCKET=bucket; AMI=ami-1; "
    replacements = [each for each in commands if each.startswith("sed -i ")]
    assert len(replacements) == 5
    for command in replacements:
        words = shlex.split(command)
        script = re.search(r'"([^"]*)"', command)[0]
        for pattern in words[3:]:
            for file in REPOSITORY.glob(pattern):
                shown = subprocess.run(
                    ["bash", "-c", f"{variables} sed {script} {shlex.quote(str(file))}"],
                    capture_output=True, text=True, check=True,
                ).stdout  # fmt: skip
                settings = re.sub(r"^\s*#.*$", "", shown, flags=re.MULTILINE)
                assert "FILL-IN" not in settings, file
