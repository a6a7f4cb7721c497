"""The check of a GPU: tried on the CPU, and where there is none, or a part fails."""

import subprocess
import sys

import pytest
import torch

from facevae.benchmark import gpu_check
from facevae.benchmark.gpu_check import Row, as_markdown, check, main


def test_without_a_gpu_it_says_so_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("gpu-check: PyTorch finds no GPU here: ")
    assert (said.out, said.err.count("\n")) == ("", 1)


def test_a_part_that_cannot_run_says_why_and_the_others_go_on():
    def fails():
        yield Row("first", 1234.5, "ms")
        raise RuntimeError("two\nlines")

    def needs():
        import no_such_package  # noqa: F401

        yield Row("never", 1.0)

    last = {"last": lambda: iter([Row("a", "b")])}
    table, is_good = check({"fails": fails, "needs": needs} | last)
    assert table == [
        ("fails", "first", "1,234", "ms"),
        ("fails", "failed", "RuntimeError: two lines", ""),
        ("needs", "left out", "it needs a package that is not here (No module named "
         "'no_such_package')", ""),
        ("last", "a", "b", ""),
    ]  # fmt: skip
    assert not is_good
    assert check({"needs": needs} | last)[1]
    assert as_markdown(table).splitlines()[-1] == "| last | a | b |  |"


def test_no_part_begins_late():
    table, is_good = check({"late": lambda: iter([Row("never", 1.0)])}, seconds=-1)
    assert table == [("late", "left out", "-1 seconds have passed: give --only late", "")]
    assert is_good


def test_the_parts_without_ray_run_on_a_cpu(capsys):
    names = ["machine", "step", "encoder", "agreement"]
    assert main(["--device", "cpu", "--only", *names]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    values = {(part, what): value for part, what, value, *_ in rows}
    assert {part for part, _ in values} == set(names)
    assert float(values["step", "step, batch 2, fp32"].replace(",", "")) > 1
    assert float(values["encoder", "encoder, batch 2, fp32: pixels of the host"]) > 1
    # The same computation twice, on this device.
    assert float(values["agreement", "gradient in fp32 beside the CPU's"]) < 1e-6


def test_it_needs_nothing_but_pytorch_to_begin():
    others = ("ray", "mlflow", "pydantic", "safetensors", "facenet_pytorch")
    program = f"import sys; import {gpu_check.__name__}; print({others} & sys.modules.keys())"
    program = program.replace(str(others), f"set({others})")
    words = [sys.executable, "-c", program]
    said = subprocess.run(words, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"


@pytest.mark.long
def test_a_killed_training_goes_on():
    """As a program, since it brings up a Ray of its own; two to three minutes on two cores."""
    words = [sys.executable, "-m", gpu_check.__name__, "--device", "cpu", "--only", "pipeline"]
    run = subprocess.run(words, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "speed" in run.stdout
    assert "killed: from the new command to its first step" in run.stdout
