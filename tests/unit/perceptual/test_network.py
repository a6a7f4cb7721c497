from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from facenet_pytorch import InceptionResnetV1
from facenet_pytorch.models.mtcnn import ONet
from safetensors.torch import save_file
from torch import nn

from facevae.config import LossConfig
from facevae.errors import UserError
from facevae.perceptual.network import build_perceptual_network, check_perceptual_network
from facevae.perceptual.weights import fetch_weights, perceptual_weights_digest, read_weights
from facevae.pixels import to_float

STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")


def _inception(weights: Path | str, layers: tuple[str, ...] = STEM, **more: int) -> LossConfig:
    return LossConfig(network="inception_resnet_v1", weights=str(weights), layers=layers, **more)


@pytest.fixture(scope="module")
def inception() -> nn.Module:
    """A network with random weights and random batch norm statistics."""
    torch.manual_seed(0)
    network = InceptionResnetV1(classify=True, num_classes=3).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    return network


@pytest.fixture(scope="module")
def weights(inception: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "inception.pt"
    torch.save(inception.state_dict(), path)
    return path


@pytest.mark.parametrize("fold", [False, True])
def test_features_are_those_of_facenet_pytorch(
    inception: nn.Module, weights: Path, fold: bool
) -> None:
    asked = {
        "Block8": "block8",
        "Conv2d_1a_3x3": "conv2d_1a",
        "MaxPool_3a_3x3": "maxpool_3a",
        "mixed_6a": "mixed_6a",
        "Mixed_5a": "repeat_1",
        "Mixed_6b": "repeat_2",
        "Mixed_8a": "repeat_3",
    }
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        inception.get_submodule(name).register_forward_hook(
            lambda _module, _input, output, name=name: seen.update({name: output})
        )
        for name in asked.values()
    ]
    images = 255 * torch.rand(2, 3, 160, 160)
    network = build_perceptual_network(_inception(weights, tuple(asked)), fold=fold)
    with torch.no_grad():
        inception((images - 127.5) / 128)
        features = network(images)
    for hook in hooks:
        hook.remove()
    for name, found in zip(asked.values(), features, strict=True):
        assert found.shape == seen[name].shape
        assert (found - seen[name]).norm() / seen[name].norm() < 1e-4, name


def test_onet_features_are_those_of_facenet_pytorch() -> None:
    onet = ONet()
    images = 255 * torch.rand(2, 3, 48, 48)
    names = ("conv4", "prelu1", "conv2")
    features = build_perceptual_network(LossConfig(layers=names, network_image_size=48))(images)
    maps = (images - 127.5) * 0.0078125
    first = onet.prelu1(onet.conv1(maps))
    second = onet.prelu2(onet.conv2(onet.pool1(first)))
    third = onet.prelu3(onet.conv3(onet.pool2(second)))
    fourth = onet.prelu4(onet.conv4(onet.pool3(third)))
    for found, expected in zip(features, (fourth, first, second), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_only_the_needed_prefix_is_kept(weights: Path) -> None:
    network = build_perceptual_network(_inception(weights))
    assert len(network.stages) == 3
    sizes = [f.shape[1:].numel() for f in network(torch.zeros(1, 3, 64, 64))]
    assert sum(sizes) == 768_896  # values an image that the original compares


def test_frozen_whatever_train_is_called_on() -> None:
    network = build_perceptual_network(LossConfig())
    nn.Sequential(network).train()
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    images = (255 * torch.rand(1, 3, 80, 80)).requires_grad_()
    sum(f.sum() for f in network(images)).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_safetensors_file_gives_the_same_features(
    inception: nn.Module, weights: Path, tmp_path: Path
) -> None:
    path = tmp_path / "inception.safetensors"
    save_file(inception.state_dict(), path)
    images = 255 * torch.rand(1, 3, 160, 160)
    (found,) = build_perceptual_network(_inception(path, STEM[:1]))(images)
    (expected,) = build_perceptual_network(_inception(weights, STEM[:1]))(images)
    assert torch.equal(found, expected)
    digests = {perceptual_weights_digest(c) for c in (_inception(path), _inception(weights))}
    assert {len(digest) for digest in digests} == {64}
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LossConfig(layers=("conv1", "cnov2")), r"no layer 'cnov2'; did you mean 'conv2'\?"),
        (_inception("vggface2", ("Conv2d_2b_3x",)), "did you mean 'Conv2d_2b_3x3'"),
        (_inception("vggface2", ("conv1",)), "inception_resnet_v1 has no layer 'conv1'"),
        (
            _inception("vggface2", ("Mixed_7a",), network_image_size=64),
            "'mixed_7a' of inception_resnet_v1 needs images of 75 pixels or more, found 64",
        ),
        (_inception("vgface2"), "no such file; did you mean 'vggface2'"),
        (_inception(__file__), "ending is '.py'"),
    ],
)
def test_mistakes_are_found_before_anything_is_loaded(config: LossConfig, message: str) -> None:
    for function in (check_perceptual_network, build_perceptual_network):
        with pytest.raises(UserError, match=message) as caught:
            function(config)
        assert "\n" not in str(caught.value)


def test_smallest_image_told_is_the_smallest_that_runs(weights: Path) -> None:
    config = _inception(weights, ("Mixed_7a",), network_image_size=75)
    network = build_perceptual_network(config)
    (features,) = network(torch.zeros(1, 3, 75, 75))
    assert features.shape[2:] == (1, 1)
    network.image_size = 74
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        network(torch.zeros(1, 3, 74, 74))


@pytest.mark.parametrize("half_written", [False, True])
def test_failed_download_tells_where_to_put_the_file(
    half_written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(url: str, path: str, progress: bool) -> None:
        if not half_written:
            raise URLError("no route")
        Path(path).write_bytes(b"PK half of a file")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    check_perceptual_network(_inception("vggface2"))
    with pytest.raises(UserError) as caught:
        build_perceptual_network(_inception("vggface2"))
    told = str(caught.value)
    assert str(tmp_path / "checkpoints" / "20180402-114759-vggface2.pt") in told
    assert "https://github.com/timesler/facenet-pytorch/releases" in told
    assert "--loss.weights FILE" in told
    assert "\n" not in told
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_download_lands_in_the_cache_and_is_used_again(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls: list[str] = []

    def copy(url: str, path: str, progress: bool) -> None:
        urls.append(url)
        Path(path).write_bytes(weights.read_bytes())

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", copy)
    for _ in range(2):
        path = fetch_weights(_inception("casia-webface"))
    assert path == tmp_path / "checkpoints" / "20180408-102900-casia-webface.pt"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert len(urls) == 1


def test_weights_of_another_network_are_refused(inception: nn.Module, tmp_path: Path) -> None:
    state = inception.state_dict()
    del state["conv2d_1a.conv.weight"]
    state["last_linear.weight"] = torch.zeros(128, 1792)
    state["extra.weight"] = torch.zeros(1)
    path = tmp_path / "other.pth"
    torch.save(state, path)
    with pytest.raises(UserError) as caught:
        build_perceptual_network(_inception(path))
    told = str(caught.value)
    assert "1 missing (conv2d_1a.conv.weight)" in told
    assert "1 unexpected (extra.weight)" in told
    assert "last_linear.weight [128, 1792] for [512, 1792]" in told


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_and_foreign_files_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"PK not a weight file at all")
    with pytest.raises(UserError, match="cannot read the weights"):
        build_perceptual_network(_inception(path))
    if suffix == ".pt":
        torch.save([1, 2], path)
        with pytest.raises(UserError, match="found list"):
            build_perceptual_network(_inception(path))


@pytest.mark.parametrize(
    "content", [b"\x80\x02.", b"\x80\x02h\x5a.", b"\x80\x02X\x02\0\0\0\xff\xfe."]
)
def test_weight_files_that_unpickling_trips_over_are_refused(tmp_path, content):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"\x80\x02" + content)
    with pytest.raises(UserError, match="cannot read the weights"):
        read_weights(path)


HTML = b"\n<!DOCTYPE html><html><head><title>Sign in</title></head></html>"


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.pt", b"", "it is empty"),
        ("a.safetensors", b"", "it is empty"),
        ("a.pt", HTML, "it is a web page"),
        ("a.pth", HTML, "it is a web page"),
        ("a.safetensors", HTML, "it is a web page"),
        ("a.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "it is a text"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "it is a text"),
        ("a.pt", b"\x89HDF\r\n\x1a\n" + bytes(100), "it is something else"),
        ("a.safetensors", b"\x89HDF\r\n\x1a\n" + bytes(100), "it is something else"),
        ("a.safetensors", (2).to_bytes(8, "little") + b"[]", "it is something else"),
    ],
)
def test_a_file_that_is_no_weight_file_is_found_before_the_start(tmp_path, name, content, found):
    path = tmp_path / name
    path.write_bytes(content)
    for function in (check_perceptual_network, build_perceptual_network):
        with pytest.raises(UserError, match=rf"cannot read the weights in .*\({found}\)") as caught:
            function(_inception(path))
        assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("kept", [0.005, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_weight_file_that_is_cut_short_is_found_before_the_start(tmp_path, name, kept):
    path, state = tmp_path / name, {"a": torch.zeros(2000)}
    torch.save(state, path) if name == "a.pt" else save_file(state, path)
    check_perceptual_network(_inception(path))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match=r"\(it is cut short\); expected a whole state-dict file"):
        check_perceptual_network(_inception(path))


@pytest.mark.parametrize("legacy", [False, True])
def test_weights_in_each_form_of_torch_pass(tmp_path, legacy):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=not legacy)
    check_perceptual_network(_inception(path))
    assert read_weights(path)["a"].tolist() == [1, 1]


def test_the_ending_of_the_other_kind_is_told(tmp_path):
    path = tmp_path / "a.safetensors"
    torch.save({"a": torch.ones(2)}, path)
    with pytest.raises(UserError, match=r"torch saved it: give its name the ending \.pt"):
        check_perceptual_network(_inception(path))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_network_is_refused_without_the_advice_to_run_its_code(tmp_path, legacy):
    path = tmp_path / "network.pt"
    torch.save(nn.Linear(2, 2), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match="holds more than tensors") as caught:
        read_weights(path)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [48, 64, 80])
def test_stored_images_are_seen_as_float_pixels_are(dtype: torch.dtype, size: int) -> None:
    """Bit for bit: no stored value is rounded on its way."""
    network = build_perceptual_network(LossConfig()).to(dtype)
    pixels = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    for found, expected in zip(network.of_pixels(pixels), network(to_float(pixels)), strict=True):
        assert torch.equal(found, expected)
