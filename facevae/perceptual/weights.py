"""Weight files of the frozen face networks: where they are, and what is in them."""

import hashlib
import importlib.util
import json
import pickle
import urllib.parse
import zipfile
from collections.abc import Mapping
from difflib import get_close_matches
from http.client import HTTPException
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from facevae.config import LossConfig
from facevae.errors import UNREADABLE, UserError

_RELEASE = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/"
_PRETRAINED = {
    "vggface2": _RELEASE + "20180402-114759-vggface2.pt",
    "casia-webface": _RELEASE + "20180408-102900-casia-webface.pt",
}
_SUFFIXES = (".pt", ".pth", ".safetensors")
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
"""how torch's files begin, and how those of torch before 1.6 do"""
_HEADER_LENGTH = 8
"""bytes at the beginning of a safetensors file that tell how long its header is"""
_HEADER_BYTES = 100_000_000
"""the most that safetensors takes of a header"""


def weights_file(config: LossConfig) -> Path:
    """The file that the network's weights come from, which may not be downloaded yet.

    O-Net's lies in the facenet-pytorch package, pretrained Inception's in torch's cache, where
    facenet-pytorch itself looks for it.

    Raises:
        UserError: `loss.weights` is neither the name of pretrained weights nor a weight file.
    """
    if config.network == "mtcnn_onet":
        # Found, not imported: that takes as long as importing torch.
        package = importlib.util.find_spec("facenet_pytorch")
        assert package is not None
        assert package.origin is not None
        return Path(package.origin).parent / "data" / "onet.pt"
    path = config.own_weights
    if path is None:
        name = Path(urllib.parse.urlparse(_PRETRAINED[config.weights]).path).name
        from facenet_pytorch.models.inception_resnet_v1 import get_torch_home

        return Path(get_torch_home()) / "checkpoints" / name
    if path.is_file() and path.suffix in _SUFFIXES:
        return path
    found = f"its ending is {path.suffix!r}" if path.is_file() else "there is no such file"
    close = get_close_matches(config.weights, _PRETRAINED, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise UserError(
        f"loss.weights: expected {', '.join(_PRETRAINED)} or a state-dict file "
        f"({', '.join(_SUFFIXES)}), found {config.weights!r}: {found}{hint}"
    )


def fetch_weights(config: LossConfig) -> Path:
    """The weight file, downloaded to torch's cache first if it is pretrained and not there yet.

    A download is read in full before it takes its name, so a broken one never passes for good.

    Raises:
        UserError: as `weights_file`; or the download failed.
    """
    path = weights_file(config)
    if path.is_file():
        return path
    url = _PRETRAINED[config.weights]
    partial = path.with_name(f"{path.stem}.{uuid4().hex}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(partial), progress=False)
        read_weights(partial)
        partial.replace(path)
    except (OSError, HTTPException, UserError) as error:
        raise UserError(
            f"loss.weights {config.weights!r}: not at {path}, and the download failed "
            f"({' '.join(str(error).split())}); fetch {url} to that path, or give another file "
            "with --loss.weights FILE"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def check_weights(config: LossConfig) -> None:
    """Checks that the weight file is there, and looks like one; reads no tensor of it.

    Pretrained weights that are not downloaded yet pass.

    Raises:
        UserError: as `weights_file`; or the file is cut short, or of another kind.
    """
    path = weights_file(config)
    if path.is_file():
        _check_form(path)


def _check_form(path: Path) -> None:
    """Refuse what the beginning and the end of a file show to be no whole weight file."""
    is_torch = path.suffix != ".safetensors"
    try:
        found = _wrong_torch_form(path) if is_torch else _wrong_safetensors_form(path)
    except OSError as error:
        found = error.strerror or str(error)
    if found is not None:
        raise UserError(_unreadable(path, found))


def _unreadable(path: Path, reason: str) -> str:
    return (
        f"cannot read the weights in {path} ({reason}); expected a whole state-dict file "
        "saved by torch or safetensors: fetch it again, or give another"
    )


def _wrong_torch_form(path: Path) -> str | None:
    """What a file is instead of one that torch saved; none: it looks like one."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(_ZIP):
        # The table of contents is at the end.
        return None if zipfile.is_zipfile(path) else "it is cut short"
    return None if start.startswith(_PICKLE) else _kind(start)


def _wrong_safetensors_form(path: Path) -> str | None:
    """What a file is instead of one of safetensors; none: it looks like one."""
    with path.open("rb") as file:
        start = file.read(_HEADER_LENGTH)
        length = int.from_bytes(start, "little")
        header = file.read(length) if length <= _HEADER_BYTES else b""
    if len(header) < length and header.startswith(b"{"):
        return "it is cut short"
    try:
        tensors = json.loads(header)
        ends = [t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__"]
        size = _HEADER_LENGTH + length + max(ends, default=0)
    except (ValueError, TypeError, LookupError, AttributeError):
        return _kind(start)
    return None if path.stat().st_size == size else "it is cut short"


def _kind(start: bytes) -> str:
    """What a file is that begins so."""
    if not start:
        return "it is empty"
    if start.lstrip().startswith(b"<"):
        return "it is a web page"
    if start.startswith((_ZIP, _PICKLE)):
        return "torch saved it: give its name the ending .pt"
    return "it is a text" if start.isascii() and b"\0" not in start else "it is something else"


def perceptual_weights_digest(config: LossConfig) -> str:
    """SHA-256 of the weight file, in hexadecimal: names the network in a run's tags.

    Raises:
        UserError: as `fetch_weights`.
    """
    with fetch_weights(config).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_same_network(loss: LossConfig, other: LossConfig) -> bool:
    """Whether the face network of a loss is another one, weights included.

    One whose weights are gone, so that they cannot be compared, is taken for the same.

    Args:
        loss: of a training.
        other: the network; its weights are at hand.
    """
    if loss.reconstruction == "pixel" or loss.network != other.network:
        return False
    if loss.network == "mtcnn_onet" or loss.weights == other.weights:
        return True
    if {loss.weights, other.weights} <= set(_PRETRAINED):
        return False
    try:
        path = weights_file(loss)
    except UserError:
        return True
    return not path.is_file() or perceptual_weights_digest(loss) == perceptual_weights_digest(other)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a state-dict file by name, on the CPU. Executes nothing from the file.

    Raises:
        UserError: the file is damaged or holds something else.
    """
    _check_form(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Torch's own message tells how to run code from the file.
        reason = "it is damaged, or holds more than tensors, as a whole network does"
        raise UserError(_unreadable(path, reason)) from error
    except (*UNREADABLE, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(_unreadable(path, reason)) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(
            f"expected a state dict (names to tensors) in {path}, found {type(state).__name__}; "
            "save the network with torch.save(network.state_dict(), path)"
        )
    return dict(state)


def load_weights(network: nn.Module, path: Path) -> None:
    """Puts a file's tensors, as float32, into a network of the meta device.

    The classification head (`logits.*`), which depends on the training set, is left out.

    Raises:
        UserError: as `read_weights`; or names or shapes differ from the network's.
    """
    state = {k: v for k, v in read_weights(path).items() if not k.startswith("logits.")}
    expected = network.state_dict()
    differences = {
        "missing": [k for k in expected if k not in state],
        "unexpected": [k for k in state if k not in expected],
        "of another shape": [
            f"{k} {list(state[k].shape)} for {list(v.shape)}"
            for k, v in expected.items()
            if k in state and state[k].shape != v.shape
        ],
    }
    told = [f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in differences.items() if keys]
    if told:
        raise UserError(
            f"weights in {path} are not those of {type(network).__name__}: {'; '.join(told)}; "
            "give a state dict of facenet-pytorch's network with --loss.weights FILE"
        )
    network.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, assign=True
    )


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
