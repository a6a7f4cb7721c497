"""What labels must allow, checked before a model is trained or its encoder runs.

Legend: N images, A attributes.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from jaxtyping import Int8, Int64

from facevae.attributes.vectors import index_of
from facevae.config import EditingConfig, Split
from facevae.data.shard_files import Manifest, read_image_ids, read_labels
from facevae.data.sources import FaceSource
from facevae.editing.latent_edit import FACENET_FACES
from facevae.errors import UserError

VECTOR_SPLIT: Split = "train"
"""the split that vectors are computed from"""
READERS = 8
"""shards read at once: each takes a small part of a file, and mostly waits"""

T = TypeVar("T")


def check_source(source: FaceSource, editing: EditingConfig) -> None:
    """Check that faces have the labels of an edit, before shards are made of them.

    Raises:
        UserError: they have not.
    """
    if not source.attribute_names:
        raise UserError(
            "the images have no labels, and a vector needs some: give --attributes FILE, or "
            "facevae train, which needs none"
        )
    for name in _names(editing):
        index_of(name, source.attribute_names)


def _names(editing: EditingConfig) -> tuple[str, ...]:
    """The attributes of which an edit takes vectors."""
    return (*editing.amounts, *editing.hold) if editing.moves_attributes else ()


def check_vectors(shards: str, manifest: Manifest, min_count: int) -> None:
    """Check that at least one attribute gets a vector.

    Args:
        shards: the folder.
        manifest: its.
        min_count: how many images a vector needs with and without the attribute.

    Raises:
        UserError: none would; names the nearest.
    """
    _check_labelled(shards, manifest)
    present, absent = count_labels(_labels(shards, manifest, VECTOR_SPLIT))
    fewer = np.minimum(present, absent)
    best = int(fewer.argmax())
    if fewer[best] < min_count:
        raise UserError(
            f"no attribute gets a vector from {shards}: its '{VECTOR_SPLIT}' split has "
            f"{present[best]} images with {manifest.attribute_names[best]} and {absent[best]} "
            f"without, and all others are further from encoding.min_count {min_count} of each; "
            "label more images, or lower it"
        )


def check_editing(shards: str, manifest: Manifest, editing: EditingConfig, min_count: int) -> None:
    """Check that each attribute to edit or hold gets a vector, and that there are faces to edit.

    Args:
        shards: the folder.
        manifest: its.
        editing: which attributes and faces.
        min_count: how many images a vector needs with and without the attribute.

    Raises:
        UserError: no such attribute or face, or too few images with it or without.
    """
    _check_labelled(shards, manifest)
    names = _names(editing)
    indices = [index_of(name, manifest.attribute_names) for name in names]
    present, absent = count_labels(_labels(shards, manifest, VECTOR_SPLIT))
    for name, index in zip(names, indices, strict=True):
        if min(present[index], absent[index]) < min_count:
            raise UserError(
                f"{name} would get no vector: the '{VECTOR_SPLIT}' split of {shards} has "
                f"{present[index]} images with it and {absent[index]} without, and "
                f"encoding.min_count asks for {min_count} of each; choose another "
                "--editing.attribute, label more images, or lower --encoding.min_count"
            )
    if faces := editing.named_faces:
        _check_faces(shards, manifest, faces)
    if editing.image_ids is not None:
        return
    if editing.preset == "facenet_smile":
        _, absent = count_labels(_labels(shards, manifest))
        if absent[indices[0]] <= max(FACENET_FACES):
            raise UserError(
                f"preset facenet_smile needs {max(FACENET_FACES) + 1} faces without a smile, "
                f"{shards} has {absent[indices[0]]}: leave --editing.preset out"
            )


def count_labels(
    labels: Int8[np.ndarray, "N A"],
) -> tuple[Int64[np.ndarray, " A"], Int64[np.ndarray, " A"]]:
    """How many images carry each attribute, and how many are known to be without it."""
    return (labels > 0).sum(axis=0), (labels < 0).sum(axis=0)


def _check_labelled(shards: str, manifest: Manifest) -> None:
    if not manifest.attribute_names:
        raise UserError(
            f"the images in {shards} have no labels, and a vector needs some: make the shards "
            "again with --attributes FILE, in another folder"
        )


def _check_faces(shards: str, manifest: Manifest, image_ids: Sequence[str]) -> None:
    known = {name for ids in of_shards(read_image_ids, shards, manifest) for name in ids}
    for name in image_ids:
        if name not in known:
            raise UserError(
                f"no image {name!r} in {shards}: its {len(known)} images run from "
                f"{min(known)!r} to {max(known)!r}; choose one of them"
            )


def _labels(shards: str, manifest: Manifest, *splits: Split) -> Int8[np.ndarray, "N A"]:
    """The labels of some splits (none: all)."""
    none = np.empty((0, len(manifest.attribute_names)), np.int8)
    return np.concatenate([none, *of_shards(read_labels, shards, manifest, *splits)])


def of_shards(
    read: Callable[[str, str], T], shards: str, manifest: Manifest, *splits: Split
) -> list[T]:
    """What a function reads of each shard of some splits (none: all)."""
    names = [shard.name for shard in manifest.shards if not splits or shard.split in splits]
    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(lambda name: read(shards, name), names))
