"""The measures of a model by their names, which stay the same from run to run, and why some lack.

Legend: A attributes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from facevae.attributes.scores import auc_mean
from facevae.evaluation.editing import EditMeasures
from facevae.evaluation.face_network import Networks
from facevae.evaluation.latent_space import LatentMoments
from facevae.evaluation.summary import VISIBLE_AUC, Classification, Judge, Pictures

OF_JUDGE = ("judge_auc", "edit_success", "leakage", "identity_kept", "flip_strength")
NAMED = 10
"""how many attributes a line names"""


class Measures(NamedTuple):
    """All that is measured of a model."""

    names: tuple[str, ...]
    """of the attributes"""
    has_vector: Bool[np.ndarray, " A"]
    networks: Networks
    scores: Classification
    latents: LatentMoments
    figures: dict[str, float]
    """means over images by name"""
    pictures: Pictures
    judge: Judge | None = None
    edits: EditMeasures | None = None
    targets: Sequence[int] = ()
    """the places of the edited attributes"""
    unjudged: str = ""
    """why no edit is judged; empty: some are"""

    def metrics(self) -> dict[str, float]:
        """Every metric by name; NaN where there is none. Attributes without a vector have none."""
        accuracy, vectors = self.scores.accuracy, np.flatnonzero(self.has_vector).tolist()
        return {
            **self._named("auc", self.scores.auc, vectors),
            **self._named("average_precision", self.scores.average_precision, vectors),
            **self._named("balanced_accuracy", accuracy.balanced, vectors),
            **self._named("accuracy", accuracy.accuracy, vectors),
            **self._named("majority", accuracy.majority, vectors),
            **{name: self.figures[name] for name in ("psnr", "ssim", "perceptual_distance")},
            "kl/mean": self.figures["kl"],
            "active_units": float(self.latents.active_units()),
            "frechet": self.pictures.frechet,
            "frechet_floor": self.pictures.floor,
            **self._judged(),
        }

    def _judged(self) -> dict[str, float]:
        """What the judge says of real images and of edits; only means where it says nothing."""
        auc = np.full(len(self.names), np.nan) if self.judge is None else self.judge.auc
        edits = self.edits
        columns = {
            "edit_success": None if edits is None else edits.success,
            "leakage": None if edits is None else edits.leakage,
            "identity_kept": edits.identity if edits and self.networks.know_people else None,
            "flip_strength": None if edits is None else edits.flip_strength,
        }
        metrics = self._named("judge_auc", auc, np.flatnonzero(np.isfinite(auc)).tolist())
        for name, column in columns.items():
            values = np.full(len(self.names), np.nan)
            if column is not None:
                values[list(self.targets)] = column
            metrics |= self._named(name, values, [] if column is None else self.targets)
        return metrics | {"identity_kept/reconstruction": self.figures["identity_kept"]}

    def _named(
        self, name: str, values: Float64[np.ndarray, " A"], places: Sequence[int]
    ) -> dict[str, float]:
        """A metric of the attributes at some places, and its mean."""
        found = {self.names[k]: float(values[k]) for k in places}
        return {**{f"{name}/{k}": v for k, v in found.items()}, f"{name}/mean": auc_mean(found)}

    def not_judged(self) -> dict[str, str]:
        """Why each attribute is not judged that is not, where there is a judge."""
        if self.judge is None:
            return {}
        seen, auc = set(self.judge.visible()), self.judge.auc
        reasons = {}
        for k, name in enumerate(self.names):
            if not math.isfinite(auc[k]):
                reasons[name] = "too few images with or without it for the judge to learn it"
            elif k not in seen:
                reasons[name] = f"the judge's own AUC on real images is {auc[k]:.3f}"
            elif not self.has_vector[k]:
                reasons[name] = "it has no vector"
        return reasons

    def reasons(self) -> dict[str, str]:
        """Why metrics have no value, by name."""
        missing = (name for name, value in self.metrics().items() if not math.isfinite(value))
        return {name: self._reason(name) for name in missing}

    def _reason(self, name: str) -> str:
        kind = name.partition("/")[0]
        if kind in OF_JUDGE and self.unjudged:
            return self.unjudged
        if kind == "identity_kept" and not self.networks.know_people:
            return (
                f"{self.networks.features.network} finds faces and does not know people: judge "
                "with --evaluation.judge inception_resnet_v1"
            )
        if kind == "flip_strength" and self.edits is not None:
            return "half of the faces do not turn at any of evaluation.strengths"
        if kind in OF_JUDGE:
            return f"the judge sees no attribute with an AUC of {VISIBLE_AUC} in real images"
        if kind in ("accuracy", "balanced_accuracy", "majority"):
            return "the val or the test split has no image with the attribute, or none without"
        if kind.startswith("frechet"):
            return "fewer than four images were decoded"
        if kind == "psnr":
            return "a reconstruction is equal to its image"
        return "no held-out image has the attribute, or none lacks it"


def line_of(unjudged: Mapping[str, str]) -> str:
    """A line that names the attributes that are not judged."""
    more = f" and {len(unjudged) - NAMED:,} more" if len(unjudged) > NAMED else ""
    return (
        f"not judged, since in real images the judge tells them with an AUC below {VISIBLE_AUC}, "
        f"or has too few to learn from: {', '.join(list(unjudged)[:NAMED])}{more}"
    )
