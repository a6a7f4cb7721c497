"""A judge is independent of the model, and its features are the network's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from facenet_pytorch.models.inception_resnet_v1 import InceptionResnetV1

from facevae.config import EvaluationConfig, LossConfig
from facevae.errors import UserError
from facevae.evaluation.face_network import (
    NetworkChoice,
    choose_networks,
    load_distance_network,
    load_face_network,
)
from facevae.pixels import resize, to_float

PIXEL, ONET = LossConfig(reconstruction="pixel"), LossConfig()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """A file of random weights of InceptionResnetV1."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "face.pt"
    torch.save(InceptionResnetV1().state_dict(), path)
    return str(path)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """No pretrained weights are on this machine."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8))


def test_without_weights_the_onet_judges_what_did_not_train_with_it():
    found = choose_networks(EvaluationConfig(), PIXEL)
    assert (found.features.network, found.is_judge, found.reason) == ("mtcnn_onet", True, "")
    assert not found.know_people


def test_a_model_of_the_only_network_at_hand_has_no_judge():
    found = choose_networks(EvaluationConfig(), ONET)
    assert not found.is_judge
    assert "that of the model's own loss" in found.reason
    assert "--evaluation.judge_weights FILE" in found.reason


def test_a_model_of_an_unknown_loss_has_no_judge_but_one_that_is_named():
    found = choose_networks(EvaluationConfig(), None)
    assert not found.is_judge
    assert "is not known here" in found.reason
    assert choose_networks(EvaluationConfig(judge="mtcnn_onet"), None).is_judge


def test_an_inception_of_other_weights_judges(weights):
    config = EvaluationConfig(judge_weights=weights)
    for loss in (PIXEL, ONET):
        found = choose_networks(config, loss)
        assert found.features.network == "inception_resnet_v1"
        assert found.know_people


def test_the_same_weights_under_another_name_are_the_same(weights, tmp_path):
    copy = tmp_path / "copy.pt"
    copy.write_bytes(Path(weights).read_bytes())
    loss = LossConfig(network="inception_resnet_v1", weights=str(copy))
    # The O-Net is left.
    assert choose_networks(EvaluationConfig(judge_weights=weights), loss).features.network == (
        "mtcnn_onet"
    )


def test_weights_that_are_gone_may_be_the_same(weights):
    loss = LossConfig(network="inception_resnet_v1", weights="gone.pt")
    config = EvaluationConfig(judge_weights=weights)
    assert choose_networks(config, loss).features.network == "mtcnn_onet"


@pytest.mark.parametrize("judge", ["mtcnn_onet", "inception_resnet_v1"])
def test_the_network_of_the_loss_is_refused_as_a_judge(judge, weights):
    config = EvaluationConfig(judge=judge, judge_weights=weights)
    with pytest.raises(UserError, match="is the network of the model's own loss"):
        choose_networks(config, LossConfig(network=judge, weights=weights))


def test_weights_that_are_not_there_name_the_setting():
    with pytest.raises(UserError, match=r"^evaluation\.judge_weights: expected") as refused:
        choose_networks(EvaluationConfig(judge_weights="nowhere.pt"), PIXEL)
    assert "\n" not in str(refused.value)


def test_onet_features_are_what_its_heads_read(pixels):
    face = load_face_network(NetworkChoice("mtcnn_onet", "vggface2", ""))
    onet = MTCNN().onet
    images = (resize(to_float(pixels), 48, "antialias") - 127.5) / 128
    with torch.inference_mode():
        boxes, _, _ = onet(images)
        found = face(pixels)
        assert found.shape == (3, 256)
        torch.testing.assert_close(onet.dense6_2(found), boxes, atol=1e-5, rtol=1e-4)


def test_inception_features_are_its_embedding(pixels, weights):
    face = load_face_network(NetworkChoice("inception_resnet_v1", weights, ""))
    plain = InceptionResnetV1()
    plain.load_state_dict(torch.load(weights, weights_only=True))
    images = (resize(to_float(pixels), 160, "antialias") - 127.5) / 128
    with torch.inference_mode():
        torch.testing.assert_close(face(pixels), plain.eval()(images), atol=1e-4, rtol=1e-3)
    layers = load_distance_network(NetworkChoice("inception_resnet_v1", weights, ""))
    assert len(layers.layers) == 4
