"""README's file tree is the tree."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def listed() -> list[str]:
    """The files that README's tree names, by the indentation of their lines."""
    tree = (ROOT / "README.md").read_text().partition("\nfacevae/\n")[2].partition("```")[0]
    folders, files = ["facevae"], []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        del folders[depth:]
        path = "/".join([*folders, name.rstrip("/")])
        if name.endswith("/"):
            folders.append(name.rstrip("/"))
        else:
            files.append(path)
    return files


def test_each_file_has_its_line():
    if not (ROOT / ".git").exists():
        pytest.skip("git tells which files there are")
    words = ["git", "-C", str(ROOT), "ls-files", "facevae/*.py"]
    tracked = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert sorted(listed()) == sorted(f for f in tracked if not f.endswith("__init__.py"))
