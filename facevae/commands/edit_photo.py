"""`edit --image PHOTO`: the face of one's own photo, edited and put back."""

import hashlib
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from facevae.attributes.population import Population, read_population
from facevae.commands.edit_inputs import EditInputs, read_inputs
from facevae.commands.run_step import Metrics, Step, Work, run_step
from facevae.config import AlignmentConfig, EditConfig, LossConfig, PhotoConfig
from facevae.data.detector import MtcnnDetector
from facevae.editing.edits import read_source
from facevae.editing.photo_edit import FoundFaces, strongest
from facevae.editing.photo_editor import (
    CARD,
    LABELLED_GRID,
    WRITTEN,
    PhotoEditor,
    WrittenPhoto,
)
from facevae.errors import UserError
from facevae.models.checkpoint import ModelCard
from facevae.perceptual.identity import IdentityNetwork
from facevae.perceptual.weights import is_same_network
from facevae.report.strength_grids import strength_grid
from facevae.runs import storage
from facevae.runs.progress import log
from facevae.tracking import Run, training_loss

CLAIM = "edit.json"
FILES_LOGGED = 16
"""of a photo in the run's record: a file is there for each strength"""


def edit_photo(config: EditConfig, image: str) -> Metrics:
    """Edit the faces of a photo, or of a folder of photos (`edit_folder`).

    Writes `edit.png` and `edit_labelled.png` (the aligned face at each strength), `photo.*` (the
    photo at the strength that changes most) and `photo_<strength>.*`, `before_after.*` if asked
    for, `card.json` and `result.json`.

    Args:
        config: with absolute paths.
        image: the photo, or the folder.

    Returns:
        `faces`, `strengths`; of the first face `psnr_db`, and for each edited attribute
        `score/<attribute>/before` and `/after` (at the strength that changes most, as the
        decoded face is encoded again; -0.5 is the mean without it, 0.5 with it);
        `outside_the_data`, the strengths at which it is there.

    Raises:
        UserError: no such model, vectors, attribute, photo or face; nothing is written then.
    """
    if storage.is_folder(image):
        from facevae.commands.edit_folder import edit_folder  # one photo needs no Ray

        return edit_folder(config, image)
    name = image.rpartition("/")[2]
    if storage.parent(image) == config.output and re.fullmatch(WRITTEN, name):
        raise UserError(f"--image {image} would be written over by the edit: give another --output")
    inputs = read_inputs(config)
    data = _read(image)
    alignment = resolve_alignment(config, inputs)
    loaded = Loaded(
        inputs,
        read_population(inputs.vectors_uri, inputs.vectors),
        alignment,
        load_judge(config, inputs.card),
        read_source(inputs.vectors_uri, config.editing),
    )
    editor = make_editor(config, loaded)
    found = editor.find(data, name)
    sha256 = hashlib.sha256(data).hexdigest()
    step = Step(
        command="edit",
        output=config.output,
        tracking=config.tracking,
        claim=CLAIM,
        identity={**edit_identity(config, inputs, alignment), "image": sha256},
        product=CARD,
        written={"": rf"{WRITTEN}|result\.json"},
        is_reusable=True,
    )
    edit = partial(_edit, config.output, inputs, editor, found, name, {"sha256": sha256})
    work = Work(config.model_dump(mode="json"), step.identity, edit, inputs.model_run)
    metrics = run_step(step, lambda _: work)
    _tell(config.output)
    return metrics


def _read(image: str) -> bytes:
    try:
        return storage.read_bytes(image)
    except FileNotFoundError as error:
        raise UserError(
            f"no photo at {image}: give the path of a photo, or of a folder of them"
        ) from error


def resolve_alignment(config: EditConfig, inputs: EditInputs) -> AlignmentConfig:
    """How faces are found and cut out: as asked for, else as the model's training images were."""
    trained = inputs.card.alignment
    if config.alignment.framing == "auto" and "framing" not in trained:
        log(
            "alignment.framing auto: the model does not tell how its training images were cut; "
            "celeba is taken, and --alignment.framing sets another"
        )
    return config.alignment.resolved(trained, all_faces=config.face != 0)


class Judge(NamedTuple):
    """What tells whether it is still the same person."""

    network: IdentityNetwork | None
    about: dict[str, Any]
    """which it is, or why there is none, for the card"""


def load_judge(config: EditConfig, card: ModelCard) -> Judge:
    """The network that judges identity, if one is asked for.

    Raises:
        UserError: it is that of the loss, which would judge itself; or it cannot be had.
    """
    weights = config.identity_weights
    if weights is None:
        note = "not judged: give --identity_weights, of a face network other than the loss's"
        return Judge(None, {"network": None, "note": note})
    network = IdentityNetwork(weights)
    loss = training_loss(config.model, card, config.tracking, config.output)
    other = LossConfig(network="inception_resnet_v1", weights=weights)
    if loss is not None and is_same_network(loss, other):
        raise UserError(
            f"--identity_weights {weights} are those of the model's loss, which would judge "
            "itself: give others"
        )
    known = "is another than the loss's" if loss else "may be the loss's, which is not known"
    about = {"network": f"inception_resnet_v1 {weights}", "note": f"the network {known}"}
    return Judge(network, about)


class Loaded(NamedTuple):
    """What an editor needs of files, read once."""

    inputs: EditInputs
    population: Population
    alignment: AlignmentConfig
    judge: Judge
    source: Float[np.ndarray, "1 Z"] | None
    """the latent of the face whose levels are transferred, if any are"""


def make_editor(config: EditConfig, loaded: Loaded) -> PhotoEditor:
    """What edits photos, with everything that it needs in memory."""
    inputs = loaded.inputs
    return PhotoEditor(
        vae=inputs.vae,
        vectors=inputs.vectors,
        source=loaded.source,
        population=loaded.population,
        editing=config.editing,
        photo=config,
        alignment=loaded.alignment,
        crop=config.alignment.crop(inputs.card.alignment),
        detector=MtcnnDetector(loaded.alignment),
        identity=loaded.judge.network,
        about={
            "model": {"digest": inputs.card.digest, "step": inputs.card.step},
            "vectors": {"shards_digest": inputs.vectors.shards_digest},
            "identity": loaded.judge.about,
        },
    )


def edit_identity(
    config: EditConfig, inputs: EditInputs, alignment: AlignmentConfig
) -> dict[str, Any]:
    """What an edit of photos is of, but for the photos."""
    settings = config.model_dump(mode="json")
    photo = {name: settings[name] for name in PhotoConfig.model_fields if name != "image"}
    return {
        "editing": settings["editing"],
        "photo": photo,
        "alignment": alignment.model_dump(mode="json"),
        **inputs.digests,
    }


def _edit(
    output: str,
    inputs: EditInputs,
    editor: PhotoEditor,
    found: FoundFaces,
    name: str,
    key: Mapping[str, Any],
    run: Run,
) -> Metrics:
    run.tags(inputs.tags())
    written = editor.write(found, name, output, dict(key))
    run.image("edit", 0, strength_grid(written.strips, 1))
    run.picture(LABELLED_GRID, written.labelled)
    run.json(CARD, written.card)
    for file in written.files[:FILES_LOGGED]:
        with storage.local_copy(storage.join(output, file)) as path:
            run.file(path)
    metrics = _metrics(written, editor)
    run.metrics(0, metrics)
    return metrics


def _metrics(written: WrittenPhoto, editor: PhotoEditor) -> Metrics:
    face = written.card["faces"][0]
    strengths = editor.strengths
    most = face["after"][strongest(strengths)]
    scores = {
        f"score/{name}/{when}": state["scores"][name]["decoded"]
        for name in editor.editing.amounts
        for when, state in (("before", face["before"]), ("after", most))
    }
    return {
        "faces": float(len(written.card["faces"])),
        "strengths": float(len(strengths)),
        "psnr_db": face["reconstruction"]["psnr_db"],
        **scores,
        "outside_the_data": float(sum(state["outside_the_data"] for state in face["after"])),
    }


def _tell(output: str) -> None:
    """Say where the photos are, what they lost, and which faces are like none of the data."""
    card = storage.read_json(storage.join(output, CARD))
    photo = next(name for name in card["files"] if name.startswith("photo."))
    log(f"photo: {storage.join(output, photo)}")
    for lost in card["lost"]:
        log(f"lost: {lost}")
    for face in card["faces"]:
        stopped = [f"{s['strength']:g}" for s in face["after"] if s["stopped"]]
        if stopped:
            log(
                f"face {face['index']}: the move was stopped before strength {', '.join(stopped)}, "
                "where it would leave the data; --editing.damp false lets it go on"
            )
        outside = [f"{s['strength']:g}" for s in face["after"] if s["outside_the_data"]]
        if outside:
            log(
                f"face {face['index']}: outside the data at strength {', '.join(outside)}, further "
                f"from their middle than {card['data']['outside_quantile']:.0%} of the faces"
            )
