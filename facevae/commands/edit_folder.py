"""`edit --image FOLDER`: own photos by Ray Data, each to pictures and a card in its own folder.

A photo that cannot be edited leaves a card that says why. A card tells that its photo is done: the
same command goes on with the others.
"""

import csv
import io
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from PIL import Image

from facevae.attributes.population import read_population
from facevae.commands.edit_inputs import read_inputs
from facevae.commands.edit_photo import (
    CLAIM,
    Loaded,
    edit_identity,
    load_judge,
    make_editor,
    resolve_alignment,
)
from facevae.commands.paths import check_paths
from facevae.commands.run_step import Metrics, Step, Work, run_step
from facevae.config import EditConfig
from facevae.data.sources.image_files import IMAGE_EXTENSIONS, extension_of, is_hidden
from facevae.editing.edits import read_source
from facevae.editing.photo_editor import CARD, LABELLED_GRID, remove_earlier
from facevae.errors import UserError
from facevae.ray_cluster.connect import LOST_PROCESS, connect, errors_left_out
from facevae.ray_cluster.nodes import Node, cluster_nodes
from facevae.ray_cluster.placement import ActorPlan, plan_actors
from facevae.report.grids import read_png
from facevae.runs import storage
from facevae.runs.progress import log, progress
from facevae.runs.retries import Attempts, run_with_retries
from facevae.tracking import Run

TABLE, PHOTOS = "photos.csv", "photos"
COLUMNS = ("image", "failed", "faces", "psnr_db", "outside_the_data", "lost")
ATTEMPTS = 3
"""how often a photo may end its process, perhaps for want of memory"""
PICTURES_LOGGED = 16
NAMED = 3
"""photos that failed which a line names"""


class PhotoFile(NamedTuple):
    """A photo of the folder."""

    image: str
    """its path from the folder"""
    key: str
    """another one means another photo, or another edit"""

    @property
    def name(self) -> str:
        """What it is called where a name may hold no slash."""
        return storage.value_digest(self.image)[:16]


def edit_folder(config: EditConfig, folder: str) -> Metrics:
    """Edit all photos of a folder, or go on with it, or find it done.

    Writes `photos/<image>/` with what `edit_photo` writes of each, `photos.csv` and `result.json`.

    Args:
        config: with absolute paths.
        folder: the photos.

    Returns:
        `photos`, `edited` and `failed`.

    Raises:
        UserError: no photos, no such model, vectors or attribute, or a cluster too small.
    """
    inputs = read_inputs(config)
    alignment = resolve_alignment(config, inputs)
    judge = load_judge(config, inputs.card)
    source = read_source(inputs.vectors_uri, config.editing)
    identity = edit_identity(config, inputs, alignment)
    photos = list_photos(folder, config.output, identity)
    step = Step(
        command="edit",
        output=config.output,
        tracking=config.tracking,
        claim=CLAIM,
        identity={**identity, "image": storage.value_digest(photos)},
        product=TABLE,
        written={"": r"photos\.csv|result\.json", PHOTOS: r"[^.].*"},
        is_reusable=True,
    )

    def prepare(_: object) -> Work:
        connect()
        nodes = cluster_nodes()
        check_paths({"--output": config.output, "--image": folder}, len(nodes))
        plan = plan_photo_actors(nodes)
        population = read_population(inputs.vectors_uri, inputs.vectors)
        loaded = Loaded(inputs, population, alignment, judge, source)
        work = partial(_edit_all, config, folder, loaded, photos, plan)
        return Work(config.model_dump(mode="json"), step.identity, work, inputs.model_run)

    metrics = run_step(step, prepare)
    log(f"photos: {storage.join(config.output, PHOTOS)}, listed in {TABLE} there")
    return metrics


def list_photos(folder: str, output: str | None, identity: dict[str, Any]) -> list[PhotoFile]:
    """The photos below a folder, by path; what lies in the output folder, if any, is none.

    Raises:
        UserError: there are none.
    """
    filesystem, path = storage.filesystem_of(folder)
    with storage.translate_errors(folder):
        found = filesystem.find(path, detail=True)
    photos = []
    for file, info in sorted(found.items()):
        image = file.removeprefix(path).lstrip("/")
        is_ours = bool(output) and storage.join(folder, image).startswith(f"{output}/")
        if extension_of(image) in IMAGE_EXTENSIONS and not is_hidden(image) and not is_ours:
            changed = info.get("mtime") or info.get("ETag") or info.get("etag") or ""
            key = storage.value_digest([image, info.get("size"), str(changed), identity])
            photos.append(PhotoFile(image, key))
    if not photos:
        raise UserError(f"no photo to read in {folder}: give a folder that holds some, or a photo")
    return photos


def plan_photo_actors(nodes: Sequence[Node]) -> ActorPlan:
    """Who edits photos: as many actors on CPUs as encode faces.

    Raises:
        TooSmallError: the cluster has no CPU for them.
    """
    return plan_actors("photo", "photo", None, "no", nodes)


class EditPhoto:
    """An actor: {name, image, key} -> {name, error}; writes a photo's folder."""

    def __init__(self, config: EditConfig, folder: str, loaded: "ray.ObjectRef[Loaded]") -> None:
        """Loads the detector."""
        torch.set_num_threads(1)
        self._editor = make_editor(config, ray.get(loaded))
        self._folder, self._output = folder, config.output
        self._attempts = Attempts(config.output, ATTEMPTS)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Edit one photo; an error becomes a row, and a photo that cannot be edited a card."""
        name, image, key = (str(batch[each][0]) for each in ("name", "image", "key"))
        return self._attempts.row(name, lambda: self._edit(PhotoFile(image, key)))

    def _edit(self, photo: PhotoFile) -> None:
        if read_card(self._output, photo) is not None:  # by an actor that died
            return
        target = folder_of(self._output, photo)
        data = storage.read_bytes(storage.join(self._folder, photo.image))
        try:
            found = self._editor.find(data, photo.image)
        except UserError as error:
            remove_earlier(target)
            card = {"key": photo.key, "failed": str(error)}
            storage.write_json(storage.join(target, CARD), card)
            return
        self._editor.write(found, photo.image.rpartition("/")[2], target, {"key": photo.key})


def folder_of(output: str, photo: PhotoFile) -> str:
    """Where what comes of a photo lies."""
    return storage.join(output, PHOTOS, photo.image)


def read_card(output: str, photo: PhotoFile) -> dict[str, Any] | None:
    """The card of a photo; none: it is still to be edited."""
    uri = storage.join(folder_of(output, photo), CARD)
    if not storage.exists(uri):
        return None
    try:
        card = storage.read_json(uri)
    except UserError:  # damaged: it is made again
        return None
    return card if isinstance(card, dict) and card.get("key") == photo.key else None


def _edit_all(
    config: EditConfig,
    folder: str,
    loaded: Loaded,
    photos: Sequence[PhotoFile],
    plan: ActorPlan,
    run: Run,
) -> Metrics:
    run.tags(loaded.inputs.tags())
    remove_earlier(config.output)  # of one photo that was edited there before
    finished: set[str] = set()
    by_name = {photo.name: photo for photo in photos}
    arguments = (config, folder, ray.put(loaded))

    def todo() -> list[str]:
        for name, photo in by_name.items():
            if name not in finished and read_card(config.output, photo) is not None:
                finished.add(name)
        return [name for name in by_name if name not in finished]

    with progress("edit", len(photos), "photos") as bar:

        def attempt(names: Sequence[str]) -> dict[str, str]:
            failed, done = {}, len(photos) - len(names)
            items = [{"name": n, "image": by_name[n].image, "key": by_name[n].key} for n in names]
            with errors_left_out():
                for row in _tasks(items, arguments, plan).iter_rows():
                    if row["error"]:
                        failed[row["name"]] = row["error"]
                        continue
                    done += 1
                    bar(done)
            return failed

        attempts = Attempts(config.output, ATTEMPTS)
        run_with_retries(attempts, todo, attempt, LOST_PROCESS, unit="photos")
    return _report(config.output, photos, run)


def _tasks(
    items: list[dict[str, str]], arguments: tuple[Any, ...], plan: ActorPlan
) -> "ray.data.Dataset":
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    return dataset.map_batches(
        EditPhoto,
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(size=min(plan.actors, len(items))),
        batch_size=1,
        num_cpus=plan.cpus,
        label_selector=plan.labels or None,
    )


def _report(output: str, photos: Sequence[PhotoFile], run: Run) -> Metrics:
    """Write and log the table of all photos; returns the metrics."""
    cards = {photo: read_card(output, photo) or {"failed": "its card is gone"} for photo in photos}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_row(photo.image, card) for photo, card in cards.items())
    uri = storage.join(output, TABLE)
    with storage.atomic_file(uri) as path:
        path.write_text(text.getvalue(), encoding="utf-8")
    with storage.local_copy(uri) as path:
        run.file(path)
    edited = [photo for photo, card in cards.items() if "failed" not in card]
    for photo in edited[:PICTURES_LOGGED]:
        pixels = read_png(storage.join(folder_of(output, photo), LABELLED_GRID))
        if pixels is not None:
            run.picture(f"{PHOTOS}/{photo.image}.png", Image.fromarray(pixels))
    failed = [photo for photo, card in cards.items() if "failed" in card]
    for photo in failed[:NAMED]:
        log(f"failed: {cards[photo]['failed']}")
    if len(failed) > NAMED:
        log(f"failed: {len(failed) - NAMED} more, see {TABLE}")
    metrics = {
        "photos": float(len(photos)),
        "edited": float(len(edited)),
        "failed": float(len(failed)),
    }
    run.metrics(0, metrics)
    return metrics


def _row(image: str, card: dict[str, Any]) -> tuple[Any, ...]:
    """A photo's row of the table."""
    if "failed" in card:
        return (image, card["failed"], 0, "", "", "")
    faces = card["faces"]
    outside = any(state["outside_the_data"] for face in faces for state in face["after"])
    psnr = faces[0]["reconstruction"]["psnr_db"]
    return (image, "", len(faces), psnr, str(outside).lower(), "; ".join(card["lost"]))
