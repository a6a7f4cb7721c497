"""The Makefile: what `clean` removes."""

import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_clean_leaves_results(tmp_path):
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    for name in (".venv", ".mypy_cache", ".pytest_cache", "runs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("mine")
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Makefile", "runs"]
    assert (tmp_path / "runs" / "file").read_text() == "mine"
