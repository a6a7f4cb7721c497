"""The Ray Data job from photographs to aligned faces: an actor decodes, detects, cuts and writes.

A finished part leaves a record, and a second run of the same job takes it from there.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import ray

from facevae.config import AlignConfig, AlignmentConfig, PartsConfig
from facevae.data import aligned_files
from facevae.data.aligned_files import PARTS, STATUSES, Part, face_rows, write_part
from facevae.data.aligned_images import Unread, read_aligned
from facevae.data.detector_actors import DetectorPlan
from facevae.data.sources.photographs import Photographs
from facevae.errors import UserError
from facevae.ray_cluster.connect import LOST_PROCESS, errors_left_out
from facevae.runs import storage
from facevae.runs.progress import progress
from facevae.runs.retries import Attempts, run_with_retries

RECORDS = "records"
WRITTEN = {
    PARTS: rf"{aligned_files.NAME_PATTERN}\.parquet",
    RECORDS: rf"{aligned_files.NAME_PATTERN}\.json",
}
"""what actors write, by folder"""
NAMED = 5
"""photographs that an error names"""


class PartPlan(NamedTuple):
    """The photographs of one part, and why each is not read; empty: it is."""

    name: str
    image_ids: list[str]
    unread: list[str]


class AlignmentResult(NamedTuple):
    """What a job leaves."""

    parts: list[Part]
    photographs: dict[str, int]
    """by status"""
    faces: int
    aligned_now: int
    """photographs of the parts that were written now, not by an earlier job"""


def plan_parts(photographs: dict[str, str], images: int) -> list[PartPlan]:
    """Photographs in order, cut into parts."""
    ids, unread = list(photographs), list(photographs.values())
    return [
        PartPlan(f"part-{number:05d}", ids[start : start + images], unread[start : start + images])
        for number, start in enumerate(range(0, len(ids), images))
    ]


class AlignPart:
    """An actor: {name, image_ids, unread} -> {name, error}; writes a part."""

    def __init__(
        self,
        folder: str,
        source: Photographs,
        alignment: AlignmentConfig,
        parts: PartsConfig,
        plan: DetectorPlan,
    ) -> None:
        """Loads the detector onto the actor's device."""
        self._folder, self._source = folder, source
        self._alignment, self._form = alignment, parts.format
        self._threads = plan.threads
        self._attempts = Attempts(folder, parts.attempts)
        self._detector = plan.load(alignment)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Write the part; an error becomes a row."""
        return self._attempts.row(str(batch["name"][0]), lambda: self.write(batch))

    def write(self, batch: dict[str, np.ndarray]) -> None:
        """Write part and record, unless the record shows that an earlier actor did."""
        name = str(batch["name"][0])
        record = storage.join(self._folder, RECORDS, f"{name}.json")
        if storage.exists(record):
            return
        unread = dict(zip(batch["image_ids"][0].tolist(), batch["unread"][0].tolist(), strict=True))
        read = [image_id for image_id, reason in unread.items() if not reason]
        aligned = read_aligned(
            self._source.load, read, self._detector, self._alignment, self._threads
        )
        rows: list[dict[str, Any]] = []
        counts: Counter[str] = Counter()
        for image_id, reason in unread.items():
            faces = Unread("unreadable", reason) if reason else next(aligned)
            rows += face_rows(image_id, faces, self._form)
            counts[rows[-1]["status"]] += 1
        part = write_part(self._folder, name, len(unread), rows)
        faces_found = sum(row["status"] == "ok" for row in rows)
        storage.write_json(
            record, {"part": vars(part), "photographs": dict(counts), "faces": faces_found}
        )


def make_aligned(
    config: AlignConfig, source: Photographs, plans: list[PartPlan], plan: DetectorPlan
) -> AlignmentResult:
    """Align all photographs that are not; finished parts of an earlier run are kept.

    Args:
        config: output folder (absolute), alignment.
        source: the photographs; the folder is claimed for them.
        plans: the parts.
        plan: the actors.

    Raises:
        UserError: a part failed too often; or a photograph has no face, and `alignment.no_face` is
            `fail`.
    """
    folder = config.output
    written = _write_all(config, source, plans, plan)
    records = [storage.read_json(_record(folder, part.name)) for part in plans]
    counts = sum((Counter(record["photographs"]) for record in records), Counter[str]())
    parts = [Part(**record["part"]) for record in records]
    if counts["no_face"] and config.alignment.no_face == "fail":
        lost = list(aligned_files.photographs_of(folder, parts, "no_face"))
        for part, record in zip(plans, records, strict=True):
            if record["photographs"].get("no_face"):  # what is mended is searched again
                storage.remove_file(_record(folder, part.name))
        raise _no_face(lost, config.images)
    aligned_files.write_table(folder, parts)
    photographs: dict[str, int] = {status: counts[status] for status in STATUSES}
    faces = sum(record["faces"] for record in records)
    value = {**describe_alignment(config, source, plans), "photographs": photographs}
    aligned_files.write_summary(folder, parts, {**value, "faces": faces})
    return AlignmentResult(parts, photographs, faces, written)


def describe_alignment(
    config: AlignConfig, source: Photographs, plans: Sequence[PartPlan]
) -> dict[str, Any]:
    """What a folder of aligned faces is of, as its summary says it too."""
    return {
        "source": {
            **source.describe(),
            "listing_digest": storage.value_digest([part.image_ids for part in plans]),
        },
        "alignment": config.alignment.model_dump(mode="json"),
        "form": config.parts.model_dump(mode="json", include={"images", "format"}),
    }


def _record(folder: str, name: str) -> str:
    return storage.join(folder, RECORDS, f"{name}.json")


def _write_all(
    config: AlignConfig, source: Photographs, plans: list[PartPlan], plan: DetectorPlan
) -> int:
    """Write the parts that are not; returns how many photographs they have."""
    folder = config.output
    by_name = {part.name: part for part in plans}
    total = sum(len(part.image_ids) for part in plans)
    begun: set[str] = set()
    for name, written in WRITTEN.items():
        storage.remove_partial_writes(storage.join(folder, name), written)
    with progress("align", total, "photographs") as bar:

        def todo() -> list[str]:
            finished = set(storage.names(storage.join(folder, RECORDS)))
            return [name for name in by_name if f"{name}.json" not in finished]

        def run(names: Sequence[str]) -> dict[str, str]:
            begun.update(names)
            chosen = [by_name[name] for name in names]
            done = total - sum(len(part.image_ids) for part in chosen)
            failed = {}
            with errors_left_out():
                for row in _tasks(config, source, chosen, plan).iter_rows():
                    if row["error"]:
                        failed[row["name"]] = row["error"]
                        continue
                    done += len(by_name[row["name"]].image_ids)
                    bar(done)
            return failed

        run_with_retries(
            Attempts(folder, config.parts.attempts), todo, run, LOST_PROCESS, unit="parts"
        )
    return sum(len(by_name[name].image_ids) for name in begun)


def _tasks(
    config: AlignConfig, source: Photographs, todo: list[PartPlan], plan: DetectorPlan
) -> "ray.data.Dataset":
    return ray.data.from_items(
        [part._asdict() for part in todo], override_num_blocks=len(todo)
    ).map_batches(
        AlignPart,
        fn_constructor_args=(config.output, source, config.alignment, config.parts, plan),
        batch_size=1,
        **plan.options(len(todo)),
    )


def _no_face(lost: list[str], folder: str) -> UserError:
    names = ", ".join(lost[:NAMED]) + (f" and {len(lost) - NAMED} more" if lost[NAMED:] else "")
    return UserError(
        f"{len(lost)} photographs in {folder} have no face that was found ({names}), and "
        "alignment.no_face is fail: take them away or say --alignment.no_face drop or centre, each "
        "with another --output"
    )
