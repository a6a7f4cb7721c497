"""What is said of the arithmetic of a run, and that a run keeps the one it began with."""

import pytest
import torch

from facevae.commands.choose_precision import choose_precision
from facevae.models import precision
from facevae.ray_cluster.nodes import Node


@pytest.fixture
def choose(monkeypatch):
    """Chooses on a CPU that has native bf16, or emulates it 11 times as slowly as fp32."""

    def chosen(wanted: str, recorded: str | None, is_native: bool) -> str:
        monkeypatch.setattr(precision, "has_native_bf16", lambda device: is_native)
        monkeypatch.setattr(precision, "bf16_slowdown", lambda device: 11.2)
        return choose_precision(
            "training.precision", wanted, recorded, [Node(2, 0)], use_gpu=False, cpus=1, labels={}
        )

    return chosen


@pytest.mark.parametrize(
    ("wanted", "recorded", "is_native", "chosen", "line"),
    [
        ("auto", None, True, "bf16", "training.precision auto: bf16, which is native here"),
        ("auto", None, False, "fp32", "training.precision auto: fp32, for bf16 is not native"),
        ("auto", "fp32", True, "fp32", "training.precision auto: fp32, as this run began"),
        ("auto", "bf16", True, "bf16", "training.precision auto: bf16, as this run began"),
        ("auto", "damaged", False, "fp32", "training.precision auto: fp32, for bf16 is not native"),
        ("bf16", None, True, "bf16", None),
        ("fp32", None, True, "fp32", None),
        ("fp32", "fp32", False, "fp32", None),
    ],
)
def test_what_auto_came_to_is_said_in_one_line(
    choose, capsys, wanted, recorded, is_native, chosen, line
):
    assert choose(wanted, recorded, is_native) == chosen
    assert capsys.readouterr().err.splitlines() == ([] if line is None else [line])


@pytest.mark.parametrize(("wanted", "recorded"), [("bf16", None), ("auto", "bf16")])
def test_emulated_bf16_is_one_warning_with_the_factor(choose, capsys, wanted, recorded):
    assert choose(wanted, recorded, False) == "bf16"
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warnings == [
        "warning: no bf16 instructions here: bf16 takes 11 times as long as fp32; in a new folder, "
        "--training.precision auto takes fp32"
    ]


def test_fp32_is_not_asked_of_any_device(monkeypatch):
    def never(device: torch.device) -> bool:
        raise AssertionError("nothing is to choose")

    monkeypatch.setattr(precision, "has_native_bf16", never)
    many = [Node(2, 0), Node(2, 1)]
    found = choose_precision(
        "encoding.precision", "fp32", None, many, use_gpu=True, cpus=0, labels={}
    )
    assert found == "fp32"
