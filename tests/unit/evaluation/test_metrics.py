"""Metrics have their names whatever there is, and each that lacks has a reason."""

import math

import numpy as np
import pytest

from facevae.evaluation.classification import Accuracy
from facevae.evaluation.editing import EditMeasures
from facevae.evaluation.face_network import NetworkChoice, Networks
from facevae.evaluation.latent_space import LatentMoments
from facevae.evaluation.metrics import Measures, line_of
from facevae.evaluation.probes import Probes
from facevae.evaluation.summary import Classification, Judge, Pictures

NAMES = ("Smiling", "Hat", "Young")
NAN = float("nan")


def measures(network="mtcnn_onet", **changes) -> Measures:
    choice = NetworkChoice(network, "vggface2", "abc")
    values = np.array([0.9, 0.8, NAN])
    figures = {"kl": 7.0, "psnr": 20.0, "ssim": 0.5, "perceptual_distance": 0.1}
    return Measures(
        NAMES,
        np.array([True, True, False]),
        Networks(choice, True, ""),
        Classification(values, values, Accuracy(values, values, values)),
        LatentMoments(3, np.zeros(2), np.array([3.0, 0.0]), np.ones(2)),
        figures | {"identity_kept": 0.6 if network != "mtcnn_onet" else NAN},
        Pictures(9.0, 1.0),
    )._replace(**changes)


def judged(network="mtcnn_onet", flip=0.5) -> Measures:
    judge = Judge(Probes(np.zeros((3, 1)), np.zeros(3)), np.array([0.95, 0.74, NAN]), np.ones(3))
    edits = EditMeasures(
        np.array([0.7]), np.array([[1, 0, NAN]]), np.array([NAN]), np.array([0.8]), np.array([flip])
    )
    return measures(network, judge=judge, edits=edits, targets=[0])


def test_names_and_means():
    found = judged("inception_resnet_v1").metrics()
    assert found["auc/Smiling"] == 0.9
    assert found["auc/mean"] == pytest.approx(0.85)
    assert "auc/Young" not in found  # it has no vector
    assert found["active_units"] == 1
    assert found["kl/mean"] == 7
    assert found["judge_auc/Hat"] == 0.74
    assert found["edit_success/Smiling"] == found["edit_success/mean"] == 0.7
    assert "edit_success/Hat" not in found
    assert found["identity_kept/Smiling"] == 0.8
    assert found["identity_kept/reconstruction"] == 0.6


def test_an_onet_says_nothing_of_identity():
    found = judged()
    assert math.isnan(found.metrics()["identity_kept/mean"])
    assert "identity_kept/Smiling" not in found.metrics()
    assert "does not know people" in found.reasons()["identity_kept/reconstruction"]


def test_without_a_judge_the_means_are_there_and_have_the_reason():
    found = measures(unjudged="no other network")
    metrics = found.metrics()
    for name in ("edit_success/mean", "leakage/mean", "judge_auc/mean", "flip_strength/mean"):
        assert math.isnan(metrics[name])
        assert found.reasons()[name] == "no other network"
    assert metrics["frechet"] == 9
    assert found.not_judged() == {}


def test_attributes_that_the_judge_does_not_see_are_named():
    left_out = judged().not_judged()
    assert left_out == {
        "Hat": "the judge's own AUC on real images is 0.740",
        "Young": "too few images with or without it for the judge to learn it",
    }
    assert line_of(left_out).endswith("Hat, Young")
    assert line_of({f"a{i}": "" for i in range(2_000)}).endswith("a9 and 1,990 more")


@pytest.mark.parametrize("found", [measures(), judged(), judged(flip=NAN),
                                   measures(unjudged="why")])  # fmt: skip
def test_each_metric_that_lacks_has_a_reason(found):
    missing = {name for name, value in found.metrics().items() if not math.isfinite(value)}
    assert set(found.reasons()) == missing
    assert all(found.reasons().values())
