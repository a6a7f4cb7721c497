"""Measurements as figures to compare, a table and a picture."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from facevae.benchmark.samples import Spread, spread

Measured = Mapping[str, Sequence[float]]
HEADLINES = {
    "training/times_unoptimised": "training/dfc_vae/facenet/times_unoptimised",
    "training/share_of_ceiling": "training/dfc_vae/facenet/share_of_ceiling",
    "training/share_of_bare_loop": "training/dfc_vae/facenet/share_of_bare_loop",
    "training/two_workers_over_one": "training/dfc_vae/facenet/two_workers_over_one",
    "attributes/growth_200k_over_20k": "attributes/growth",
}
"""short names of the figures that are watched"""


def medians(measured: Measured) -> dict[str, float]:
    """The median of each measurement, the watched ones by their short names too."""
    medians = {name: spread(values).median for name, values in measured.items()}
    short = {name: medians[long] for name, long in HEADLINES.items() if long in medians}
    return medians | short


class Made(NamedTuple):
    """How the measurements of a case were made."""

    precision: str = ""
    processor: str = ""


def table(
    measured: Measured,
    before: Mapping[str, float] | None = None,
    lines: Sequence[str] = (),
    made: Mapping[str, Made] | None = None,
) -> str:
    """The measurements as a Markdown table, beside those of another result if there is one.

    Args:
        measured: values by name, one a round.
        before: figures of another result.
        lines: what the machine is, to be put in front.
        made: how each case was measured, by its name.
    """
    spreads = {name: spread(values) for name, values in measured.items()}
    head = ["measurement", "median", "range", "rounds", *(["before", "change"] if before else [])]
    rule = ["---", *["---:"] * (len(head) - 1), "---", "---"]
    head += ["precision", "processor"]
    rows = [
        [*_row(name, each, before), *(made or {}).get(name.rpartition("/")[0], Made())]
        for name, each in spreads.items()
    ]
    return "\n".join([*lines, "", *("| " + " | ".join(row) + " |" for row in [head, rule, *rows])])


def _row(name: str, each: Spread, before: Mapping[str, float] | None) -> list[str]:
    row = [
        f"`{name}`",
        f"{each.median:,.4g}",
        f"{each.low:,.4g} to {each.high:,.4g}",
        str(each.rounds),
    ]
    if before is None:
        return row
    old = before.get(name, math.nan)
    if not math.isfinite(old):
        return [*row, "", ""]
    return [*row, f"{old:,.4g}", f"{each.median / old - 1:+.1%}" if old else ""]


RATES = (
    "unoptimised", "ceiling", "decoding", "encoding", "bare_loop", "ours", "ours_two_workers",
    "ours_few",
)  # fmt: skip
"""rates in images per second, in the order in which they are shown"""


def rates(measured: Measured) -> dict[str, dict[str, Spread]]:
    """What to draw: for each case its rates in images per second."""
    panels: dict[str, dict[str, Spread]] = {}
    for rate in RATES:
        for name, values in measured.items():
            case, _, what = name.rpartition("/")
            if what == rate:
                panels.setdefault(case, {})[what.replace("_", " ")] = spread(values)
    return panels
