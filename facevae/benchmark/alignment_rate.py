"""Finding faces without Ray, and the photographs in which they are found."""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from facenet_pytorch import MTCNN
from PIL import Image

from facevae.data.images import encode_jpeg
from facevae.data.sources.synthetic import synthetic_face
from facevae.runs import storage

SIZE = (4000, 3000)
"""of a photograph of 12 megapixels"""
FACE_HEIGHT = 1600
DIFFERENT = 12
"""photographs; the others are links to these"""


class Photographs(NamedTuple):
    """A folder of photographs, the first ones that a loop takes, and its threads."""

    folder: str
    some: int
    cpus: int


def write_photographs(folder: Path, count: int) -> None:
    """Write so many photographs of 12 megapixels, each with a synthetic face in it."""
    for i in range(count):
        path = folder / f"{i:05d}.jpg"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if i >= DIFFERENT:
            path.hardlink_to(folder / f"{i % DIFFERENT:05d}.jpg")
            continue
        with storage.atomic_file(str(path)) as file:
            file.write_bytes(encode_jpeg(_photograph(i), 85))


def _photograph(i: int) -> Image.Image:
    """A face on a background of soft colours."""
    rng = np.random.default_rng(i)
    page = Image.fromarray(rng.integers(60, 200, (6, 8, 3), np.uint8))
    page = page.resize(SIZE, Image.Resampling.BICUBIC)
    face, _ = synthetic_face(0, i)
    face = face.resize((FACE_HEIGHT * face.width // face.height, FACE_HEIGHT))
    left, top = (
        int(rng.integers(0, room)) for room in (SIZE[0] - face.width, SIZE[1] - face.height)
    )
    page.paste(face, (left, top))
    return page


def plain_loop(photographs: Photographs) -> float:
    """Photographs per second that `MTCNN.detect` reads and searches one by one, on all cores."""
    torch.set_num_threads(photographs.cpus)
    detector = MTCNN(device="cuda" if torch.cuda.is_available() else "cpu")
    paths = sorted(Path(photographs.folder).iterdir())[: photographs.some]
    detector.detect(Image.new("RGB", (200, 200)))
    started = time.perf_counter()
    for path in paths:
        with Image.open(path) as image:
            detector.detect(image.convert("RGB"))
    return len(paths) / (time.perf_counter() - started)
