"""A checkpoint of the original program: its files, and its variables by TensorFlow's own reader.

TensorFlow is an extra, and its import takes seconds: it waits until a checkpoint is opened.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from facevae.errors import UNREADABLE, UserError
from facevae.runs import storage

_FILE = re.compile(r"(?P<prefix>.+)\.(index|meta|data-\d{5}-of-\d{5})")
_STEP = re.compile(r".*-(\d+)")


class FacenetCheckpoint(NamedTuple):
    """The files of a checkpoint, on this machine."""

    uri: str
    """its name without the endings of its files, where the user has it"""
    folder: Path
    files: tuple[str, ...]
    """names in the folder"""

    @property
    def name(self) -> str:
        """Its name without folder, such as model.ckpt-50000."""
        return self.uri.rpartition("/")[2]

    @property
    def step(self) -> int:
        """The step that its name tells; 0: none."""
        match = _STEP.fullmatch(self.name)
        return int(match[1]) if match else 0

    def digest(self) -> str:
        """The SHA-256 of its files."""
        files = {name: storage.file_digest(self.folder / name) for name in self.files}
        return storage.value_digest(files)


@contextlib.contextmanager
def local_checkpoint(uri: str) -> Iterator[FacenetCheckpoint]:
    """A checkpoint as it lies, or a copy of one in an object store.

    Args:
        uri: its name, with or without the ending of one of its files; or a folder that holds one.

    Raises:
        UserError: there is none, several are in the folder, or one of its files is missing.
    """
    uri, files = _find(uri)
    folder = storage.parent(uri)
    if storage.is_local(folder):
        yield FacenetCheckpoint(uri, Path(storage.absolute(folder)), files)
        return
    with TemporaryDirectory() as scratch:
        for name in files:
            (Path(scratch) / name).write_bytes(storage.read_bytes(storage.join(folder, name)))
        yield FacenetCheckpoint(uri, Path(scratch), files)


def _find(uri: str) -> tuple[str, tuple[str, ...]]:
    """The name of a checkpoint without endings, and the names of its files."""
    if storage.is_folder(uri):
        uri = _only_one(uri)
    folder, _, name = uri.rpartition("/")
    match = _FILE.fullmatch(name)
    name = match["prefix"] if match else name
    beside = [each for each in storage.names(folder) if each.startswith(name)]
    uri = storage.join(folder, name)
    if f"{name}.index" not in beside:
        if name not in beside:
            raise UserError(f"no checkpoint {uri}: expected the files {name}.index and {name}.data")
        return uri, (name,)  # the format before V2, a single file
    data = [each for each in beside if each.startswith(f"{name}.data-") and _FILE.fullmatch(each)]
    count = int(data[0][-5:]) if data else 1
    parts = [f"{name}.data-{part:05d}-of-{count:05d}" for part in range(count)]
    if missing := [each for each in parts if each not in data]:
        raise UserError(f"no {missing[0]} beside {uri}.index: copy all files of the checkpoint")
    return uri, (f"{name}.index", *parts)


def _only_one(folder: str) -> str:
    """The one checkpoint of a folder."""
    indices = [name for name in storage.names(folder) if name.endswith(".index")]
    found = sorted((name.removesuffix(".index") for name in indices), key=_age)
    if not found:
        raise UserError(f"no checkpoint in {folder}: expected model.ckpt-50000.index, or its like")
    if len(found) > 1:
        raise UserError(
            f"{folder} holds {len(found)} checkpoints, {', '.join(found)}: give one of them, such "
            f"as the last, {storage.join(folder, found[-1])}"
        )
    return storage.join(folder, found[0])


def _age(name: str) -> tuple[int, str]:
    match = _STEP.fullmatch(name)
    return (int(match[1]) if match else -1, name)


class CheckpointReader:
    """The variables of a checkpoint; nothing of it is run.

    Raises:
        UserError: TensorFlow is not installed, or the files are no checkpoint, or damaged.
    """

    shapes: dict[str, tuple[int, ...]]
    """of all variables, by name"""

    def __init__(self, checkpoint: FacenetCheckpoint) -> None:
        self._uri = checkpoint.uri
        self._tensorflow = _import_tensorflow()
        with self._refuse_damaged():
            prefix = str(checkpoint.folder / checkpoint.name)
            self._reader = self._tensorflow.train.load_checkpoint(prefix)
            shapes = self._reader.get_variable_to_shape_map()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}

    def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """The values of some variables, by name; their checksums are verified."""
        with self._refuse_damaged():
            return {name: np.asarray(self._reader.get_tensor(name)) for name in names}

    @contextlib.contextmanager
    def _refuse_damaged(self) -> Iterator[None]:
        try:
            yield
        except (self._tensorflow.errors.OpError, *UNREADABLE) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"cannot read {self._uri}: not a checkpoint of TensorFlow, or damaged ({reason}); "
                "copy it again"
            ) from error


def _import_tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it warns of GPUs that it does not need
    try:
        import tensorflow
    except ImportError as error:
        raise UserError(
            "TensorFlow reads the checkpoints of the original, and is not installed: "
            "pip install 'facevae[facenet-import]'"
        ) from error
    return tensorflow
