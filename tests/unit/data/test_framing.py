"""How a photograph is to be cut for a model, told by the images that it learned from."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from facevae.config import AlignmentConfig
from facevae.config.photo import PhotoAlignmentConfig
from facevae.data.framing import framing_of
from facevae.data.images import BadImageError
from facevae.data.shard_files import Manifest, Shard, read_manifest, write_manifest
from facevae.data.sources import FaceListing


class Source:
    """Images of these sizes; none: one that cannot be read."""

    def __init__(self, *sizes: tuple[int, int] | None) -> None:
        self._sizes = sizes
        ids = [str(number) for number in range(len(sizes))]
        self.faces = FaceListing(ids, ["train"] * len(ids), np.zeros((len(ids), 1), np.int8))

    def load(self, image_id: str) -> Image.Image:
        size = self._sizes[int(image_id)]
        if size is None:
            raise BadImageError("truncated")
        return Image.new("RGB", size)


CELEBA, SQUARE = (178, 218), (182, 182)


@pytest.mark.parametrize(
    ("sizes", "crop", "expected"),
    [
        ([CELEBA], "auto", "celeba"),
        ([SQUARE], "auto", "box"),
        ([CELEBA], "square", "box"),
        ([SQUARE], "celeba", "celeba"),
        ([None, CELEBA], "auto", "celeba"),
        ([None], "auto", None),
        ([CELEBA], (0, 0, 9, 9), None),
    ],
)
def test_the_first_image_that_can_be_read_tells(sizes, crop, expected):
    assert framing_of(Source(*sizes), crop) == expected


def manifest(**preprocessing: object) -> Manifest:
    shards = (Shard("train-00000", "train", 1, 1, "0" * 64),)
    return Manifest(("Smiling",), 64, shards, {}, {"crop": "auto", **preprocessing}, {}, False)


def test_a_manifest_tells_and_its_digest_is_that_of_before(tmp_path):
    told = replace(manifest(), framing="celeba")
    assert told.digest == manifest().digest
    write_manifest(str(tmp_path), told)
    assert read_manifest(str(tmp_path)).alignment == {"framing": "celeba", "size": 64}
    assert manifest().alignment == {"size": 64}
    aligned = AlignmentConfig(framing="level", margin=32, size=64).model_dump(mode="json")
    expected = {"framing": "level", "margin": 32, "size": 64}
    assert replace(manifest(alignment=aligned), framing="box").alignment == expected
    # Faces that were not searched again lie as CelebA's do, whatever was asked for.
    assert replace(manifest(alignment=aligned), framing="celeba").alignment == {
        "framing": "celeba", "size": 64,
    }  # fmt: skip
    # A square that was cut out of aligned faces is cut out of those of photographs, too.
    whole = AlignmentConfig().model_dump(mode="json")
    cut = manifest(alignment=whole, crop=[11, 11, 171, 171]).alignment
    assert cut == {"framing": "box", "margin": 44, "size": 182, "crop": [11, 11, 171, 171]}
    settings = PhotoAlignmentConfig()
    assert settings.crop(cut) == (11, 11, 171, 171)
    assert settings.resolved(cut, all_faces=False).size == 182
    assert PhotoAlignmentConfig(framing="level").crop(cut) is None
    assert manifest(alignment=whole, crop=[0, 11, 171, 171]).alignment == {}


def test_the_users_framing_beats_the_models_which_beats_celebas():
    model = {"framing": "level", "margin": 32, "size": 96}

    def resolved(trained: dict[str, object], **settings: object) -> tuple[object, ...]:
        found = PhotoAlignmentConfig(**settings).resolved(trained, all_faces=False)
        return found.framing, found.margin, found.size, found.skip_aligned

    assert resolved(model) == ("level", 32, 96, False)
    assert resolved(model, framing="celeba") == ("celeba", 32, 96, True)
    assert resolved(model, margin=8) == ("level", 8, 96, False)
    assert resolved({}) == ("celeba", 44, 160, True)
    assert resolved({"size": 64}) == ("celeba", 44, 64, True)
