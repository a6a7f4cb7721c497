"""Measurements are taken in turn and compared within their round."""

from facevae.benchmark.samples import in_turn, ratios, spread


def test_every_second_round_goes_backwards():
    said, values = [], iter(range(100))
    measures = {name: lambda: next(values) for name in ("a", "b", "c")}
    results = in_turn(measures, 3, said.append)
    assert results == {"a": [0, 5, 6], "b": [1, 4, 7], "c": [2, 3, 8]}
    assert said[:2] == ["benchmark: round 1/3, a", "benchmark: a 0"]
    assert said[6:8] == ["benchmark: round 2/3, c", "benchmark: c 3"]


def test_a_machine_that_slows_down_leaves_ratios_alone():
    speed = [1.0, 0.5, 0.25]
    ours, others = [80 * s for s in speed], [100 * s for s in speed]
    assert ratios(ours, others) == [0.8, 0.8, 0.8]


def test_spread_is_median_and_range():
    assert spread([5.0, 1.0, 2.0]) == (2.0, 1.0, 5.0, 3)
    assert str(spread([5000.0])) == "5,000 (5,000 to 5,000)"
