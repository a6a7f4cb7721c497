"""A dry run on a real cluster: tells its nodes, and leaves nothing behind."""

import pytest

from facevae.cli import main

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.mark.parametrize(
    "words",
    [
        "shards --drawn.count 100",
        "train --drawn.count 100 --scaling.workers [1,2]",
        "quickstart --drawn.count 100",
        "train --shards SHARDS",
    ],
)
def test_a_dry_run_makes_no_folder_and_no_run(words, shards, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = words.replace("SHARDS", str(shards)).split()
    before = sorted(shards.rglob("*"))
    assert main([*options, "--output", str(tmp_path / "out"), "--dry_run"]) == 0
    assert capsys.readouterr().out.startswith("nodes: 1 here\n")
    assert not list(tmp_path.iterdir())
    assert sorted(shards.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("train --drawn.count 100 --scaling.workers 64", "lower scaling.workers"),
        ("train --shards /nowhere", "no shards in /nowhere"),
        ("attributes --shards SHARDS --model /nowhere", "no model in /nowhere"),
        ("align --images /nowhere", "/nowhere"),
        ("shards --images /nowhere --attributes /nowhere", "/nowhere"),
    ],
)
def test_a_dry_run_of_what_cannot_be_is_one_line_and_exit_code_2(words, problem, shards, capsys):
    assert main([*words.replace("SHARDS", str(shards)).split(), "--dry-run"]) == 2
    shown = capsys.readouterr()
    assert problem in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)
