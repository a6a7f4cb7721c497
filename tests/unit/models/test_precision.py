"""Where bf16 is native, and what is computed in where it is not."""

from itertools import chain, repeat

import pytest
import torch

from facevae.models import precision
from facevae.models.precision import Choice, bf16_slowdown, has_native_bf16, resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("wanted", "is_native", "choice"),
    [
        ("auto", True, Choice("bf16")),
        ("auto", False, Choice("fp32")),
        ("bf16", True, Choice("bf16")),
        ("bf16", False, Choice("bf16", 11.0)),
        ("fp32", True, Choice("fp32")),
        ("fp32", False, Choice("fp32")),
    ],
)
def test_auto_is_bf16_where_it_is_native_and_what_is_asked_for_is_kept(
    monkeypatch, wanted, is_native, choice
):
    monkeypatch.setattr(precision, "has_native_bf16", lambda device: is_native)
    monkeypatch.setattr(precision, "bf16_slowdown", lambda device: 11.0)
    assert resolve_precision(wanted, CPU) == choice


@pytest.mark.parametrize(
    ("capability", "is_native"), [((7, 5), False), ((8, 0), True), ((8, 9), True), ((9, 0), True)]
)
def test_a_gpu_has_bf16_from_ampere_on(monkeypatch, capability, is_native):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_native_bf16(CUDA) is is_native


@pytest.mark.parametrize(
    ("has_kernels", "slowdown", "is_native"),
    [(True, 0.5, True), (True, 1.1, True), (True, 1.5, False), (False, 0.5, False)],
)
def test_a_cpu_has_bf16_if_onednn_says_so_and_is_no_slower(
    monkeypatch, has_kernels, slowdown, is_native
):
    """Limited to AVX2 by its environment, oneDNN still says so."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_kernels)
    monkeypatch.setattr(precision, "bf16_slowdown", lambda device: slowdown)
    assert has_native_bf16(CPU) is is_native


@pytest.fixture
def fresh():
    """No measurement before, nor left behind."""
    bf16_slowdown.cache_clear()
    yield
    bf16_slowdown.cache_clear()


def test_the_fastest_of_each_counts_and_is_measured_once(fresh, monkeypatch):
    """The first calls choose kernels, and other work may come between."""
    seconds = {
        torch.float32: chain([3.0, 0.9, 0.2], repeat(0.25)),
        torch.bfloat16: chain([9.0, 8.0, 2.4], repeat(3.0)),
    }
    monkeypatch.setattr(precision, "_seconds", lambda dtype, device: next(seconds[dtype]))
    assert bf16_slowdown(CPU) == pytest.approx(12)
    assert bf16_slowdown(CPU) == pytest.approx(12)


def test_a_measurement_leaves_the_threads_as_they_were(fresh):
    threads = torch.get_num_threads()
    assert 0.05 < bf16_slowdown(CPU) < 500
    assert torch.get_num_threads() == threads
