"""A short fuzz of every reader, and proof that the fuzzer finds what it looks for."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
INPUTS = 2_000


def test_damaged_files_are_refused_in_one_line_or_read_right():
    fuzzed = subprocess.run(
        [sys.executable, "tests/fuzz/fuzz.py", "--inputs", str(INPUTS)],
        cwd=REPOSITORY,
        env={"PYTHONPATH": ".", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    print(fuzzed.stdout)
    assert fuzzed.returncode == 0, fuzzed.stdout[-5000:] + fuzzed.stderr[-2000:]
    counts = fuzzed.stdout.split("\nall ")[1].split()
    assert int(counts[0]) >= INPUTS
    assert int(counts[1]) > INPUTS / 2
    assert int(counts[2]) > INPUTS / 20


BROKEN_READERS = Path(__file__).with_name("broken_readers.py")


@pytest.fixture
def fuzzer(tmp_path, monkeypatch):
    """The fuzzer, as a copy beside readers that break each law once."""
    for name in ("fuzz", "mutations"):
        text = (Path(__file__).parent / f"{name}.py").read_text()
        text = text.replace("PATIENCE_SECONDS = 20.0", "PATIENCE_SECONDS = 3.0")
        text = text.replace("here.parents[1]", repr(str(REPOSITORY)))
        (tmp_path / f"{name}.py").write_text(text)
    shutil.copy(BROKEN_READERS, tmp_path / "readers.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("readers", "mutations"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    spec = importlib.util.spec_from_file_location("copied_fuzz", tmp_path / "fuzz.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "copied_fuzz", module)
    spec.loader.exec_module(module)
    yield module
    for name in ("readers", "mutations"):
        sys.modules.pop(name, None)


def test_the_fuzzer_finds_crashes_hangs_memory_and_wrong_results(fuzzer):
    totals, findings = fuzzer.fuzz(fuzzer.plan(40, 0, None))
    what = {finding.reader: finding.what for finding in findings if finding.seed == -1}
    assert what["crash"] == "the process ended with -6"
    assert what["hang"] == "hangs"
    assert what["swell"].startswith("MemoryError")
    assert what["be_wrong"].startswith("wrong result")
    assert totals["crash"].inputs >= 8, "the next child went on"
