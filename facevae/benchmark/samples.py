"""Repeated measurements, taken in turn so that a machine that slows down slows all of them."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """The median of some measurements, and the range that they lie in."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:,.4g} ({self.low:,.4g} to {self.high:,.4g})"


def spread(values: Sequence[float]) -> Spread:
    """Summarise measurements, of which there must be one at least."""
    return Spread(statistics.median(values), min(values), max(values), len(values))


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The ratio of each round: what slows a round down as a whole cancels."""
    return [one / other for one, other in zip(above, below, strict=True)]


def in_turn(
    measures: Mapping[str, Callable[[], float]], rounds: int, log: Callable[[str], None]
) -> dict[str, list[float]]:
    """Measure everything `rounds` times, one after the other, every second round backwards.

    Args:
        measures: what is measured, by name.
        rounds: how often.
        log: takes a line on what is measured next, and on what was found.

    Returns:
        By name, one result a round.
    """
    results: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds):
        names = list(measures)
        for name in names if number % 2 == 0 else reversed(names):
            log(f"benchmark: round {number + 1}/{rounds}, {name}")
            results[name].append(measures[name]())
            log(f"benchmark: {name} {results[name][-1]:,.4g}")
    return results
