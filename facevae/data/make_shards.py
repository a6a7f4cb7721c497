"""The Ray Data job from raw faces to shards: one task reads, crops, encodes and writes one shard.

With `sharding.align` an actor does, which finds the face of a photograph before it crops.

A finished shard leaves a record; a second run of the same job takes it from there, and a folder
that holds another data set is refused.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import ray
from PIL import Image

from facevae import pixels
from facevae.config import AlignmentConfig, CropBox, ShardingConfig, ShardsConfig, Split
from facevae.data import shard_files
from facevae.data.align import CELEBA_BOX, CELEBA_SIZE
from facevae.data.aligned_images import REASONS, Unread, read_aligned, read_image
from facevae.data.detector_actors import DetectorPlan
from facevae.data.framing import framing_of
from facevae.data.images import encode_jpeg
from facevae.data.shard_files import Manifest, Quarantined, Shard, ShardRows
from facevae.data.sources import FaceSource
from facevae.errors import UserError
from facevae.ray_cluster.connect import LOST_PROCESS, errors_left_out
from facevae.runs import storage
from facevae.runs.progress import progress
from facevae.runs.retries import Attempts, run_with_retries

RECORDS = "records"
WRITTEN = {
    shard_files.DATA: rf"{shard_files.NAME_PATTERN}\.parquet",
    RECORDS: rf"{shard_files.NAME_PATTERN}\.json",
}
"""what tasks write, by folder"""


class ShardPlan(NamedTuple):
    """The faces of one shard: their rows in the listing."""

    name: str
    split: Split
    rows: list[int]


def plan_shards(split_of: Sequence[Split], images_per_shard: int) -> list[ShardPlan]:
    """The faces of every split, in listing order, cut into shards."""
    plans = []
    splits = np.array(split_of)
    for split in ("train", "val", "test"):
        rows = np.flatnonzero(splits == split)
        for number, start in enumerate(range(0, len(rows), images_per_shard)):
            chosen = rows[start : start + images_per_shard].tolist()
            plans.append(ShardPlan(f"{split}-{number:05d}", split, chosen))
    return plans


def crop_box(size: tuple[int, int], crop: str | CropBox) -> CropBox | None:
    """The box that an image of (width, height) is cut to; none: its largest centred square."""
    if isinstance(crop, tuple):
        return crop
    return CELEBA_BOX if crop == "celeba" or (crop == "auto" and size == CELEBA_SIZE) else None


class WriteShard:
    """{name, split, image_ids, attributes} -> {name, error}; writes a shard.

    One Ray task; or, where faces are aligned first, an actor that holds the detector.
    """

    def __init__(
        self,
        folder: str,
        source: FaceSource,
        config: ShardingConfig,
        detectors: DetectorPlan | None = None,
    ) -> None:
        self._folder, self._source, self._config = folder, source, config
        self._attempts = Attempts(folder, config.attempts)
        self._alignment = stored_alignment(config)
        self._detectors = detectors
        self._detector = detectors and detectors.load(self._alignment)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Write the shard; an error becomes a row."""
        return self._attempts.row(str(batch["name"][0]), lambda: self.write(batch))

    def write(self, batch: dict[str, np.ndarray]) -> None:
        """Write shard and record, unless the record shows that an earlier task did."""
        (name,), (split,) = batch["name"].tolist(), batch["split"].tolist()
        record = storage.join(self._folder, RECORDS, f"{name}.json")
        if storage.exists(record):
            return
        image_ids = batch["image_ids"][0].tolist()
        kept, quarantined = self.squares(image_ids, batch["attributes"][0])
        sources = self._source.sources_of(kept.image_ids)
        shard = shard_files.write_shard(
            self._folder, name, split, kept, self._config.image_size, sources
        )
        storage.write_json(record, {"shard": vars(shard), "quarantined": quarantined})

    def squares(
        self, image_ids: list[str], attributes: np.ndarray
    ) -> tuple[ShardRows, list[Quarantined]]:
        """The faces as they are stored, and those that cannot be."""
        images, kept, quarantined = [], [], []
        for row, square in enumerate(self._read_squares(image_ids)):
            if isinstance(square, Unread):
                quarantined.append(Quarantined(image_ids[row], square.reason))
                continue
            images.append(encode_jpeg(square, self._config.jpeg_quality))
            kept.append(row)
        labels = np.asarray(attributes, np.int8)[kept]
        return ShardRows([image_ids[row] for row in kept], images, labels), quarantined

    def _read_squares(self, image_ids: Sequence[str]) -> Iterator[Image.Image | Unread]:
        if self._detectors is None or self._detector is None:
            for image_id in image_ids:
                read = read_image(self._source.load, image_id)
                yield read if isinstance(read, Unread) else self._square(read)
            return
        for faces in read_aligned(
            self._source.load, image_ids, self._detector, self._alignment, self._detectors.threads
        ):
            if isinstance(faces, Unread):
                yield faces
            elif (crop := faces[0].crop) is None:
                yield Unread(faces[0].status, REASONS[faces[0].status])
            else:
                yield self._square(crop)

    def _square(self, image: Image.Image) -> Image.Image:
        box = crop_box(image.size, self._config.crop)
        return pixels.crop_and_resize(image, box, self._config.image_size)


def stored_alignment(config: ShardingConfig) -> AlignmentConfig:
    """The alignment of what is stored: whole faces are cut out at the size in which they are."""
    if isinstance(config.crop, tuple):
        return config.alignment
    return config.alignment.model_copy(update={"size": config.image_size})


def make_shards(
    config: ShardsConfig,
    source: FaceSource,
    run_id: str,
    labels: dict[str, str] | None = None,
    detectors: DetectorPlan | None = None,
) -> Manifest:
    """Write the shards of a source; finished ones of an earlier run are kept.

    Args:
        config: form of the stored images, output folder (absolute).
        source: the faces; the folder is claimed for them.
        run_id: the MLflow run that this belongs to.
        labels: of the nodes that the tasks run on; none: on any.
        detectors: what aligns the faces first; none: nothing does.

    Returns:
        The manifest, which is written last.

    Raises:
        UserError: too many quarantined faces, or a shard that failed too often.
    """
    folder = config.output
    plans = plan_shards(source.splits, config.sharding.images_per_shard)
    _write_all(folder, source, plans, config.sharding, labels, detectors)
    records = [
        storage.read_json(storage.join(folder, RECORDS, f"{plan.name}.json")) for plan in plans
    ]
    unreadable = [Quarantined(*face) for record in records for face in record["quarantined"]]
    quarantined = [*(Quarantined(*face) for face in source.unlisted), *unreadable]
    shard_files.write_quarantine(folder, quarantined)
    faces = len(source.faces.image_ids) + len(source.unlisted)
    if len(quarantined) / faces > config.sharding.max_bad_fraction:
        for plan, record in zip(plans, records, strict=True):
            if record["quarantined"]:  # what is mended is read again by the same command
                storage.remove_file(storage.join(folder, RECORDS, f"{plan.name}.json"))
        raise _too_many_bad(folder, config.sharding, quarantined, faces)
    manifest = Manifest(
        attribute_names=source.attribute_names,
        image_size=config.sharding.image_size,
        shards=tuple(Shard(**record["shard"]) for record in records if record["shard"]["rows"]),
        **describe_data_set(source, config.sharding),
        quarantined=shard_files.reasons(quarantined),
        missing_labels=bool((source.faces.attributes == 0).any()),
        run_id=run_id,
        framing=framing_of(source, "auto" if config.sharding.align else config.sharding.crop),
    )
    shard_files.write_manifest(folder, manifest)
    return manifest


def describe_data_set(source: FaceSource, sharding: ShardingConfig) -> dict[str, Any]:
    """What a folder of shards is of, as its manifest says it too."""
    listing = source.faces
    preprocessing = sharding.model_dump(
        mode="json", include={"image_size", "crop", "jpeg_quality", "images_per_shard"}
    )
    if sharding.align:  # only then: manifests of before keep their digests
        preprocessing["alignment"] = stored_alignment(sharding).model_dump(mode="json")
    return {
        "source": {
            **source.describe(),
            "listing_digest": storage.value_digest(
                [listing.image_ids, listing.splits, listing.attributes.tobytes().hex()]
            ),
        },
        "preprocessing": preprocessing,
    }


def _write_all(
    folder: str,
    source: FaceSource,
    plans: list[ShardPlan],
    config: ShardingConfig,
    labels: dict[str, str] | None,
    detectors: DetectorPlan | None,
) -> None:
    by_name = {plan.name: plan for plan in plans}
    for name, written in WRITTEN.items():
        storage.remove_partial_writes(storage.join(folder, name), written)
    with progress("shards", sum(len(plan.rows) for plan in plans), "images") as bar:

        def todo() -> list[str]:
            finished = set(storage.names(storage.join(folder, RECORDS)))
            return [name for name in by_name if f"{name}.json" not in finished]

        def run(names: Sequence[str]) -> dict[str, str]:
            chosen = [by_name[name] for name in names]
            done = sum(len(plan.rows) for plan in plans) - sum(len(plan.rows) for plan in chosen)
            failed = {}
            with errors_left_out():
                tasks = _tasks(folder, source, chosen, config, labels, detectors)
                for row in tasks.iter_rows():
                    if row["error"]:
                        failed[row["name"]] = row["error"]
                        continue
                    done += len(by_name[row["name"]].rows)
                    bar(done)
            return failed

        run_with_retries(Attempts(folder, config.attempts), todo, run, LOST_PROCESS)


def shard_item(source: FaceSource, plan: ShardPlan) -> dict[str, Any]:
    """What a task is told of the shard that it writes."""
    listing = source.faces
    return {
        "name": plan.name,
        "split": plan.split,
        "image_ids": [listing.image_ids[row] for row in plan.rows],
        "attributes": listing.attributes[plan.rows],
    }


def _tasks(
    folder: str,
    source: FaceSource,
    plans: list[ShardPlan],
    config: ShardingConfig,
    labels: dict[str, str] | None,
    detectors: DetectorPlan | None,
) -> "ray.data.Dataset":
    items = [shard_item(source, plan) for plan in plans]
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    if detectors is None:
        return dataset.map_batches(
            WriteShard(folder, source, config), batch_size=1, label_selector=labels or None
        )
    return dataset.map_batches(
        WriteShard,
        fn_constructor_args=(folder, source, config, detectors),
        batch_size=1,
        **detectors.options(len(items)),
    )


def _too_many_bad(
    folder: str, config: ShardingConfig, quarantined: list[Quarantined], faces: int
) -> UserError:
    common = next(iter(shard_files.reasons(quarantined)))
    return UserError(
        f"{len(quarantined)} faces ({len(quarantined) / faces:.1%}) were quarantined, mostly "
        f"'{common}'; the limit is sharding.max_bad_fraction {config.max_bad_fraction}: mend what "
        f"{folder}/quarantine.csv lists, or raise the limit"
    )
