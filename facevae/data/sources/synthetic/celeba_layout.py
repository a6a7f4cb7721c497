"""Writes a set of synthetic faces as files in CelebA's own layout and text formats."""

import io
import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image

from facevae.data.sources.synthetic.drawing import drawn_attributes, synthetic_face
from facevae.data.sources.synthetic.labels import ATTRIBUTE_NAMES

_CHUNK = 500


def encode_jpeg(image: Image.Image, quality: int = 92) -> bytes:
    """Returns the image as JPEG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_celeba_layout(folder: Path, count: int, seed: int, processes: int = 1) -> None:
    """Writes `count` faces of set `seed` under `folder`, as CelebA is distributed.

    img_align_celeba/000001.jpg is face 0. The text files come last, so their presence means that
    all images are there; a rerun writes the same bytes again. Faces are split in order, as in
    CelebA: the first 80 % train (0), 10 % validation (1), 10 % test (2). Each face is a person
    of its own, so its identity is its number. With processes > 1, workers are spawned, so
    the calling script needs its `if __name__ == "__main__":` guard.
    """
    if count < 1 or processes < 1:
        raise ValueError(
            f"expected count >= 1 and processes >= 1, found count={count}, processes={processes}"
        )
    images = folder / "img_align_celeba"
    images.mkdir(parents=True, exist_ok=True)
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    write = partial(_write_images, images, seed)
    if processes == 1:
        for chunk in chunks:
            write(chunk)
    else:
        # Forking would copy the locks of whatever threads the caller runs.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
            for _ in pool.map(write, chunks):
                pass

    names = [_file_name(i) for i in range(count)]
    _write_lines(
        folder / "identity_CelebA.txt", (f"{name} {i + 1}" for i, name in enumerate(names))
    )
    _write_lines(
        folder / "list_eval_partition.txt",
        (f"{name} {_partition(i, count)}" for i, name in enumerate(names)),
    )
    # CelebA pads the signs to two characters: "000001.jpg -1  1 -1".
    rows = (
        f"{name} " + " ".join(f"{sign:2d}" for sign in drawn_attributes(seed, i))
        for i, name in enumerate(names)
    )
    _write_lines(folder / "list_attr_celeba.txt", [str(count), " ".join(ATTRIBUTE_NAMES), *rows])


def _write_images(folder: Path, seed: int, indices: range) -> None:
    for index in indices:
        image, _ = synthetic_face(seed, index)
        (folder / _file_name(index)).write_bytes(encode_jpeg(image))


def _file_name(index: int) -> str:
    return f"{index + 1:06d}.jpg"


def _partition(index: int, count: int) -> int:
    return 0 if index < 0.8 * count else 1 if index < 0.9 * count else 2


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))
