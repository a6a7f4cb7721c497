"""The golden traces of 2cf8a09 are those of today's code."""

import json
from pathlib import Path

import pytest

from tests.golden import trace


@pytest.mark.long
def test_the_traces_agree(tmp_path, ray_cluster):
    expected = json.loads(Path(trace.__file__).with_name("traces.json").read_text())
    assert trace.differences(expected, trace.run(tmp_path)) == []


def test_other_bits_and_other_numbers_are_told_apart():
    def traces(bits: str, number: float, processor: str = "this") -> dict:
        part = {"bits": {"model": bits}, "numbers": {"loss": number}}
        return {"processor": processor, "torch": "1", "traces": {"pixel": part}}

    assert trace.differences(traces("a", 1.0), traces("a", 1.0)) == []
    assert trace.differences(traces("a", 1.0), traces("b", 1.0)) == ["pixel: other bits of model"]
    assert trace.differences(traces("a", 100.0), traces("b", 100.01, "other")) == []
    assert len(trace.differences(traces("a", 100.0), traces("b", 101.0, "other"))) == 1
    assert len(trace.differences(traces("a", 1.0), {**traces("a", 1.0), "traces": {}})) == 2
