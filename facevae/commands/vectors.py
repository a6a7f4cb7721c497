"""`vectors`: stored latents to attribute vectors anew; nothing is encoded.

Other settings, some of the attributes, files taken together, images or people withdrawn, labels
corrected: the directions are those that a pass over the images which are left would give.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from facevae.attributes.hdf5 import (
    VECTORS,
    has_missing_labels,
    read_image_ids,
    read_vectors,
    vectors_file,
)
from facevae.attributes.latents import read_latent_ids
from facevae.attributes.selection import Selection, StoredImages, ids_digest, select
from facevae.attributes.vectors import AttributeVectors, LatentBatch, mean_difference
from facevae.commands.paths import check_paths, with_absolute_paths
from facevae.commands.people import read_people, table_digest
from facevae.commands.run_step import RESULT, Metrics, Step, Work, run_step
from facevae.commands.write_vectors import WRITTEN_FILES, derive, write_vectors
from facevae.config import VectorsConfig
from facevae.data.sources.tables import read_label_table
from facevae.errors import UserError
from facevae.runs import storage
from facevae.runs.progress import progress
from facevae.tracking import VECTORS_RUN_TAG, Run, read_run_id

CLAIM = "vectors.json"
NOT_RECORDED = ("withdraw", "withdraw_people")
"""settings that name what is withdrawn: recorded as counts"""


class Sources(NamedTuple):
    """The files that vectors are derived from."""

    uris: tuple[str, ...]
    vectors: tuple[AttributeVectors, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes, the same in all files."""
        return self.vectors[0].names


def derive_vectors(config: VectorsConfig) -> Metrics:
    """Derive vectors from stored latents, or find them derived.

    Writes what `attributes` writes, but for `latents/` and `statistics/`.

    Returns:
        As `attributes`, and `withdrawn` images and `corrected_labels`.

    Raises:
        UserError: no such vectors, vectors of different models or label sets, an image, a person or
            an attribute that is not there, or a folder of other vectors.
    """
    config = with_absolute_paths(config)
    check_paths({"--output": config.output}, machines=1)
    sources = read_sources([config.vectors, *config.add])
    step = Step(
        command="vectors",
        output=config.output,
        tracking=config.tracking,
        claim=CLAIM,
        identity=_identity(config, sources),
        product=VECTORS,
        written={"": "|".join(map(re.escape, (*WRITTEN_FILES, RESULT)))},
        why_missing="no held-out image has the attribute, or none lacks it",
    )

    def prepare(_: object) -> Work:
        selection = _select(config, sources)
        return Work(
            _recorded(config),
            step.identity,
            partial(_derive, config, sources, selection),
            read_run_id(storage.parent(sources.uris[0])),
        )

    return run_step(step, prepare)


def read_sources(places: Sequence[str]) -> Sources:
    """The vectors of some files or folders, which must be of one model and one label set.

    Raises:
        UserError: they are not, or one is missing.
    """
    uris = tuple(vectors_file(storage.absolute(place)) for place in places)
    vectors = tuple(map(read_vectors, uris))
    first = vectors[0]
    for uri, other in zip(uris[1:], vectors[1:], strict=True):
        what = f"{uri} cannot be taken together with {uris[0]}"
        if other.vectors.shape[1:] != first.vectors.shape[1:] or (
            other.model_digest and first.model_digest and other.model_digest != first.model_digest
        ):
            raise UserError(
                f"{what}: one is of model {other.model_digest}, the other of {first.model_digest}; "
                "encode both with one model"
            )
        if other.names != first.names:
            own = sorted(set(other.names) ^ set(first.names))
            raise UserError(
                f"{what}: their attributes differ ({', '.join(own[:3]) or 'in their order'}); make "
                "shards of both with the same labels"
            )
    return Sources(uris, vectors)


def _identity(config: VectorsConfig, sources: Sources) -> dict[str, Any]:
    """What the vectors depend on."""
    withdrawn = [sorted(config.withdraw), sorted(config.withdraw_people)]
    return {
        "sources": [_digest(vectors) for vectors in sources.vectors],
        "labels": table_digest(config.attributes) and [
            table_digest(config.attributes), config.label_encoding
        ],
        "identities": table_digest(config.identities),
        "withdraw": storage.value_digest([
            *withdrawn, table_digest(config.withdraw_file), sorted(config.withdraw_shards)
        ]),
        "only": None if config.only is None else list(config.only),
        "min_count": config.min_count,
        "directions": config.directions.model_dump(),
    }  # fmt: skip


def _digest(vectors: AttributeVectors) -> str:
    """The SHA-256 of what vectors are of, and of the vectors themselves."""
    return storage.value_digest(
        [
            *(vectors.model_digest, vectors.shards_digest, vectors.labels_digest, vectors.lineage),
            *(vectors.names, vectors.positive_count.tolist(), vectors.negative_count.tolist()),
            hashlib.sha256(vectors.vectors.tobytes()).hexdigest(),
        ]
    )


def _recorded(config: VectorsConfig) -> dict[str, Any]:
    """The settings, without names of what was withdrawn."""
    settings = config.model_dump(mode="json")
    return settings | {name: len(settings[name]) for name in NOT_RECORDED}


def _select(config: VectorsConfig, sources: Sources) -> Selection:
    """Which images count, and with which labels.

    Raises:
        UserError: an image, a person or an attribute that is not there.
    """
    people = None
    if config.identities is not None:
        ids = [name for uri in sources.uris for name in read_image_ids(uri)[0]]
        people = read_people(config.identities, ids)
    images = StoredImages.of(sources.uris, people)
    withdrawn = [*config.withdraw, *_ids_of_file(config.withdraw_file)]
    for shard in config.withdraw_shards:
        withdrawn += _ids_of_shard(shard, sources)
    table = None
    if config.attributes is not None:
        table = read_label_table(config.attributes, config.label_encoding)
    return select(
        images,
        sources.names,
        withdrawn=withdrawn,
        people=config.withdraw_people,
        table=table,
        table_path=config.attributes or "",
        only=config.only,
    )


def _ids_of_file(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"cannot read the image ids of {path} ({error}): expected one per line"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _ids_of_shard(shard: str, sources: Sources) -> list[str]:
    for uri in sources.uris:
        folder = storage.parent(uri)
        with_latents = storage.exists(storage.join(folder, "latents", f"{shard}.parquet"))
        if with_latents or uri == sources.uris[-1]:
            return read_latent_ids(folder, shard)
    raise AssertionError("there is a source")


def _derive(config: VectorsConfig, sources: Sources, selection: Selection, run: Run) -> Metrics:
    images, count = selection.images, int(selection.kept.sum())
    names = sources.names if config.only is None else config.only
    corrected = selection.corrected()
    lineage = _lineage(sources, selection, corrected)
    run.tags({VECTORS_RUN_TAG: lineage["sources"][0]["run"]})
    run.json("lineage.json", lineage)
    table = selection.table
    has_gaps = any(map(has_missing_labels, sources.uris)) or (
        table is not None and not table.labels.all()
    )

    def batches(title: str) -> Iterator[LatentBatch]:
        with progress(title, count, "images") as bar:
            done = 0
            for batch in selection.batches():
                yield batch
                done += len(batch.image_id)
                bar(done)

    statistics, directions = derive(
        batches("derive"),
        (len(names), sources.vectors[0].vectors.shape[1]),
        has_gaps=has_gaps,
        min_count=config.min_count,
        config=config.directions,
        posterior_variance=_posterior_variance(sources),
        folds_by_identity=images.identities is not None,
    )
    if not statistics.count:
        raise UserError("no image is left in the 'train' split: withdraw fewer")
    vectors = mean_difference(
        statistics,
        names,
        config.min_count,
        model_digest=sources.vectors[0].model_digest,
        shards_digest=_shards_digest(sources, selection, corrected, lineage),
        labels_digest=sources.vectors[0].labels_digest
        if config.only is None
        else storage.value_digest(names),
    )
    vectors = replace(vectors, directions=directions, lineage=json.dumps(lineage))
    metrics = {
        "images": float(count),
        "withdrawn": float(len(selection.kept) - count),
        "corrected_labels": float(corrected),
        "vectors": float(vectors.valid.sum()),
        **write_vectors(config.output, vectors, batches("write"), count, run),
    }
    run.metrics(0, metrics)
    return metrics


def _lineage(sources: Sources, selection: Selection, corrected: int) -> dict[str, Any]:
    """What the vectors are of, and what was changed: JSON-able; names nobody."""
    ids, kept = selection.images.image_ids, selection.kept
    withdrawn = [ids[row] for row in np.flatnonzero(~kept).tolist()]
    runs = [read_run_id(storage.parent(uri)) for uri in sources.uris]
    found: dict[str, Any] = {
        "sources": [
            {
                "run": run.run_id if run else "",
                "shards_digest": vectors.shards_digest,
                **({"lineage": json.loads(vectors.lineage)} if vectors.lineage else {}),
            }
            for vectors, run in zip(sources.vectors, runs, strict=True)
        ]
    }
    if withdrawn:
        found |= {"withdrawn_images": len(withdrawn), "withdrawn_digest": ids_digest(withdrawn)}
    if corrected:
        found["corrected_labels"] = corrected
        assert selection.table is not None
        table = selection.table
        found["labels_digest"] = storage.value_digest(
            [table.names, table.image_ids, table.labels.tobytes().hex()]
        )
    if selection.only is not None:
        found["attributes"] = f"{len(selection.only)} of {len(sources.names)}"
    return found


def _shards_digest(
    sources: Sources, selection: Selection, corrected: int, lineage: dict[str, Any]
) -> str:
    """The digest of the images and labels: that of the shards where all are as they were."""
    is_same = len(sources.uris) == 1 and selection.kept.all() and not corrected
    return sources.vectors[0].shards_digest if is_same else storage.value_digest(lineage)


def _posterior_variance(sources: Sources) -> Float64[np.ndarray, " Z"]:
    """The mean variance of posteriors, which is kept per file and not per image."""
    found = [vectors.directions for vectors in sources.vectors]
    weights = [
        int(np.max(vectors.positive_count + vectors.negative_count, initial=1))
        for vectors in sources.vectors
    ]
    zero = np.zeros(sources.vectors[0].vectors.shape[1])
    each = [zero if part is None else part.posterior_variance for part in found]
    return np.asarray(np.average(each, axis=0, weights=weights))
