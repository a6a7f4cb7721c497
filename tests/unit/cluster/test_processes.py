"""`cluster/local down` ends and removes what `up` made, and nothing else."""

import json
import sys
from pathlib import Path

import pytest
from processes import Cluster, StartError, running

FOREIGN = {"notes.txt": "mine", ".git/HEAD": "ref", "cluster.new": "mine", ".hidden/x": "mine"}


def plant(folder: Path) -> None:
    for name, content in FOREIGN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_down_ends_what_was_started_and_leaves_what_others_made(tmp_path):
    plant(tmp_path)
    cluster = Cluster(tmp_path)
    cluster.begin(1, {})
    cluster.start("sleeper", [sys.executable, "-c", "import time; time.sleep(100)"])
    again = Cluster(tmp_path)
    assert again.is_up
    assert again.data.is_dir()
    again.end()
    assert running(cluster.part("sleeper")) is None
    assert not cluster.data.exists()
    assert contents(tmp_path) == FOREIGN
    Cluster(tmp_path).end()
    assert contents(tmp_path) == FOREIGN


STATE = {"parts": [], "environment": {}, "workers": 1, "data": "/tmp/facevae-abcdefgh"}


@pytest.mark.parametrize(
    "state",
    [
        *([], {}, {"data": STATE["data"]}),
        *(STATE | {"data": "{folder}"}, STATE | {"data": "/tmp/facevae-", "more": 1}),
        *(STATE | {"data": "/tmp/facevae-/../data"}, STATE | {"parts": [{"pid": 1}]}),
    ],
)
def test_a_cluster_file_of_another_program_is_refused(tmp_path, state):
    plant(tmp_path / "data")
    written = json.dumps(state).replace("{folder}", str(tmp_path / "data"))
    (tmp_path / "cluster.json").write_text(written)
    with pytest.raises(StartError, match=r"cluster\.json is not of cluster/local: move it"):
        Cluster(tmp_path)
    assert (tmp_path / "cluster.json").read_text() == written
    assert contents(tmp_path / "data") == FOREIGN
