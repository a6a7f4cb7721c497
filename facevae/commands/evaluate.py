"""`evaluate`: a model and its vectors to measures on held-out images."""

import hashlib
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from PIL import Image

from facevae.attributes.hdf5 import read_vectors, vectors_file
from facevae.attributes.vectors import AttributeVectors
from facevae.commands.check_labels import of_shards
from facevae.commands.choose_precision import plan_encoding
from facevae.commands.paths import check_paths, paths_of, with_absolute_paths
from facevae.commands.people import read_people
from facevae.commands.run_step import OTHER_SHARDS, Metrics, Step, Work, run_step
from facevae.config import HELD_OUT_SPLITS, EvaluateConfig
from facevae.data.order import spread_images
from facevae.data.shard_files import Manifest, read_image_ids, read_manifest
from facevae.errors import UserError
from facevae.evaluation import summary
from facevae.evaluation.face_network import (
    Networks,
    choose_networks,
    load_distance_network,
    load_face_network,
)
from facevae.evaluation.image_table import IMAGES, read_images, write_images
from facevae.evaluation.measure import Instruments
from facevae.evaluation.metrics import Measures, line_of
from facevae.evaluation.records import WRITTEN
from facevae.evaluation.sampling import Sample, choose_sample
from facevae.evaluation.stream import editing_pass, measuring_pass, run_pass
from facevae.models.checkpoint import LoadedModel, load_model
from facevae.pixels import model_input, to_pixels
from facevae.ray_cluster.connect import connect
from facevae.ray_cluster.nodes import cluster_nodes
from facevae.ray_cluster.placement import ActorPlan
from facevae.report import evaluation_plots
from facevae.report.grids import reconstruction_grid, save_or_warn
from facevae.runs import storage
from facevae.runs.progress import log
from facevae.tracking import (
    SHARDS_RUN_TAG,
    TRAINING_RUN_TAG,
    VECTORS_RUN_TAG,
    Run,
    model_folder,
    read_run_id,
    trained_by,
    training_loss,
)

CLAIM, DETAILS = "evaluation_of.json", "evaluation.json"
RECONSTRUCTIONS = "reconstructions.png"
SHOWN = 16
"""faces beside their reconstructions in a picture"""
MAX_REJECTED = 0.001
"""largest share of images whose latent may be not finite"""
JUDGE_TAG = "facevae.judge"


class Subject(NamedTuple):
    """What is measured, and with which networks."""

    manifest: Manifest
    model: LoadedModel
    vectors: AttributeVectors
    vectors_run: str
    networks: Networks
    people: Mapping[str, int]
    """by image; empty: not known"""


def evaluate_model(config: EvaluateConfig) -> Metrics:
    """Measure a model on held-out images, or go on with it, or find it measured.

    Writes `images.parquet`, what was measured of each image; `evaluation.json`, the same metrics
    with what they are of; pictures, `result.json`, and the records `measures/` and `edits/`.

    Returns:
        Metrics by name; NaN where there is none, for a reason that `evaluation.json` gives:
        `auc/<attribute>`, `average_precision/...`, `balanced_accuracy/...`, `accuracy/...`,
        `majority/...`, and each with `mean`; `psnr` in dB, `ssim`, `perceptual_distance`; `kl/mean`
        in nats per image, `active_units`; `frechet`, `frechet_floor`; `judge_auc/...`,
        `edit_success/...`, `leakage/...`, `identity_kept/...`, `flip_strength/...` of the
        attributes that are judged; and counts.

    Raises:
        UserError: no such shards, model or vectors, vectors of another model or other labels, no
            held-out images, a cluster too small, a folder of another evaluation, or another driver
            at work on it.
    """
    config = with_absolute_paths(config)
    subject = _subject(config)
    step = Step(
        command="evaluate",
        output=config.output,
        tracking=config.tracking,
        claim=CLAIM,
        identity=_identity(config, subject),
        remedies={"shards_digest": OTHER_SHARDS},
        product=IMAGES,
        why_missing=f"{storage.join(config.output, DETAILS)} has the reasons",
        written={
            "": r"images\.parquet|evaluation\.json|result\.json|"
            r"(scores|kl|leakage|reconstructions)\.png",
            **WRITTEN,
        },
    )
    return run_step(step, partial(_prepare, config, subject))


def _subject(config: EvaluateConfig) -> Subject:
    """What is to be measured, of which nothing is found wrong."""
    manifest = read_manifest(config.shards)
    if not manifest.rows(*HELD_OUT_SPLITS):
        raise UserError(
            f"{config.shards} has no images in its {' and '.join(HELD_OUT_SPLITS)} splits to "
            "evaluate on: give more images, or a --partition"
        )
    uri = vectors_file(config.vectors)
    vectors = read_vectors(uri)
    with model_folder(config.model, config.tracking, config.output) as path:
        model = load_model(path)
    vectors.check_model(model.card.digest)
    _check_labels(config, manifest, vectors, model)
    loss = training_loss(config.model, model.card, config.tracking, config.output)
    networks = choose_networks(config.evaluation, loss)
    people = {} if config.identities is None else _read_people(config.identities, config, manifest)
    run = read_run_id(storage.parent(uri))
    return Subject(manifest, model, vectors, run.run_id if run else "", networks, people)


def _read_people(table: str, config: EvaluateConfig, manifest: Manifest) -> dict[str, int]:
    ids = of_shards(read_image_ids, config.shards, manifest, *HELD_OUT_SPLITS)
    return read_people(table, [name for names in ids for name in names])


def _check_labels(
    config: EvaluateConfig, manifest: Manifest, vectors: AttributeVectors, model: LoadedModel
) -> None:
    """Check that the vectors are of these labels and of this latent space."""
    if vectors.names != manifest.attribute_names:
        different = set(vectors.names) ^ set(manifest.attribute_names)
        found = f"{min(different)!r} is in one of them only" if different else "their order differs"
        raise UserError(
            f"--vectors {config.vectors} are of other attributes than {config.shards} ({found}): "
            "give vectors that were computed from shards with the same labels"
        )
    if vectors.vectors.shape[1] != model.vae.latent_size:
        raise UserError(
            f"--vectors {config.vectors} have {vectors.vectors.shape[1]} dimensions and the latents"
            f" of {config.model} {model.vae.latent_size}: compute the vectors with this model"
        )


def _identity(config: EvaluateConfig, subject: Subject) -> dict[str, Any]:
    """What may not change when an evaluation goes on; a precision not chosen yet is left out."""
    encoding = config.encoding.model_dump(include={"batch_size", "precision", "min_count"})
    if encoding["precision"] == "auto":
        del encoding["precision"]
    vectors, networks = subject.vectors, subject.networks
    return {
        "model_digest": subject.model.card.digest,
        "shards_digest": subject.manifest.digest,
        "vectors_digest": hashlib.sha256(vectors.vectors.tobytes()).hexdigest(),
        "identities_digest": storage.value_digest(subject.people) if subject.people else None,
        "network": networks.features.network,
        "network_digest": networks.features.digest,
        "is_judge": networks.is_judge,
        "evaluation": config.evaluation.model_dump(mode="json", exclude={"judge", "judge_weights"}),
        **encoding,
    }


def _prepare(config: EvaluateConfig, subject: Subject, claimed: Mapping[str, Any]) -> Work:
    connect()
    nodes = cluster_nodes()
    check_paths(paths_of(config), len(nodes))
    plan, encoding = plan_encoding(config.encoding, claimed, nodes)
    config = config.model_copy(update={"encoding": encoding})
    choice = subject.networks.features
    tools = Instruments(
        subject.model.vae,
        subject.vectors,
        load_face_network(choice),
        load_distance_network(choice),
        encoding.batch_size,
        encoding.precision,
    )
    return Work(
        config.model_dump(mode="json"),
        _identity(config, subject),
        partial(_evaluate, config, subject, tools, plan),
        trained_by(config.model, subject.model.card),
    )


def _evaluate(
    config: EvaluateConfig, subject: Subject, tools: Instruments, plan: ActorPlan, run: Run
) -> Metrics:
    networks = subject.networks
    run.tags(
        {
            TRAINING_RUN_TAG: subject.model.card.run_id,
            SHARDS_RUN_TAG: subject.manifest.run_id or "",
            VECTORS_RUN_TAG: subject.vectors_run,
            JUDGE_TAG: networks.features.network if networks.is_judge else "none",
        }
    )
    run.dataset("shards", subject.manifest.digest, "evaluation")
    sample = choose_sample(subject.manifest, config.evaluation, networks.is_judge)
    work = measuring_pass(sample, config.evaluation.seed)
    started = time.perf_counter()
    images = run_pass(work, config.shards, config.output, tools, config.encoding, plan)
    seconds = time.perf_counter() - started
    measures = _judged(config, _measured(config, subject, sample), sample, tools, plan)
    counts = {
        "images": float(measures.latents.images),
        "rejected": float(_rejected(subject.manifest, measures.latents.images)),
        **({"images_per_second": images / seconds} if images else {}),
    }
    metrics = counts | measures.metrics()
    run.metrics(0, metrics)
    details = _details(config, subject, measures, metrics)
    storage.write_json(storage.join(config.output, DETAILS), storage.without_nan(details))
    run.json(DETAILS, details)
    _draw(config, subject, measures, run)
    return metrics


def _measured(config: EvaluateConfig, subject: Subject, sample: Sample) -> Measures:
    """Write the table of images; all measures but those of edits."""
    output, people = config.output, subject.people

    def person(image: str) -> str:
        return str(people.get(image, image))

    latents = summary.latent_moments(output, sample)
    rejected = _rejected(subject.manifest, latents.images)
    if rejected > MAX_REJECTED * (rejected + latents.images):
        raise UserError(
            f"{rejected} of {rejected + latents.images} images have a latent that is not finite: "
            "the model is broken; train another with a lower training.learning_rate"
        )
    uri, names = storage.join(output, IMAGES), subject.manifest.attribute_names
    rows = summary.held_out_images(output, sample, person, subject.networks.know_people)
    write_images(uri, rows, len(names))
    return Measures(
        names,
        subject.vectors.valid,
        subject.networks,
        summary.classify(partial(read_images, uri)),
        latents,
        summary.mean_figures(read_images(uri)),
        summary.picture_distances(output, sample),
        unjudged=subject.networks.reason,
    )


def _judged(
    config: EvaluateConfig,
    measures: Measures,
    sample: Sample,
    tools: Instruments,
    plan: ActorPlan,
) -> Measures:
    """The measures with those of edits, if there is a judge."""
    if measures.unjudged:
        log(f"no edit is judged: {measures.unjudged}")
        name = measures.networks.features.network
        log(f"the features of perceptual and Frechet distance are those of {name}")
        return measures
    if not sample.training:
        reason = f"{config.shards} has no training images that a judge could learn from"
        log(f"no edit is judged: {reason}")
        return measures._replace(unjudged=reason)
    output, strengths = config.output, config.evaluation.strengths
    judge = summary.learn_judge(output, sample, config.encoding.min_count)
    measures = measures._replace(judge=judge)
    if left_out := measures.not_judged():
        log(line_of(left_out))
    targets = [k for k in judge.visible() if measures.has_vector[k]]
    if not targets or not sample.edited:
        return measures
    moves = editing_pass(output, sample, judge.probes, targets, strengths)
    run_pass(moves, config.shards, output, tools, config.encoding, plan)
    edits = summary.edit_measures(output, sample, judge, targets, strengths)
    return measures._replace(edits=edits, targets=targets)


def _rejected(manifest: Manifest, images: int) -> int:
    return manifest.rows(*HELD_OUT_SPLITS) - images


def _details(
    config: EvaluateConfig, subject: Subject, measures: Measures, metrics: Metrics
) -> dict[str, Any]:
    """What the metrics are of, JSON-able."""
    names, judge, edits = measures.names, measures.judge, measures.edits
    seen = judge.visible() if judge and edits else []
    return {
        "model": config.model,
        "model_digest": subject.model.card.digest,
        "step": subject.model.card.step,
        "image_size": subject.model.vae.image_size,
        "shards_digest": subject.manifest.digest,
        "attributes": list(names),
        "network": measures.networks.features._asdict(),
        "is_judge": measures.networks.is_judge,
        "people_known": bool(subject.people),
        "metrics": metrics,
        "reasons": measures.reasons(),
        "not_judged": measures.not_judged(),
        "leakage": {
            "edited": [names[k] for k in measures.targets],
            "moved": [names[k] for k in seen],
            "gaps": edits.moved[:, seen].tolist() if edits else [],
        },
    }


def _draw(config: EvaluateConfig, subject: Subject, measures: Measures, run: Run) -> None:
    """Write and log the pictures."""
    names, judge, edits = measures.names, measures.judge, measures.edits
    scores, latents = measures.scores, measures.latents
    accuracy = scores.accuracy
    bars = (names, scores.auc, accuracy.accuracy, accuracy.majority, judge and judge.auc)
    charts = {
        "scores.png": partial(evaluation_plots.score_bars, *bars),
        "kl.png": partial(evaluation_plots.kl_bars, latents.kl_mean(), latents.active_units()),
        RECONSTRUCTIONS: partial(_reconstructions, config, subject),
    }
    if edits is not None and judge is not None:
        seen = judge.visible()
        rows, columns = ([names[k] for k in places] for places in (measures.targets, seen))
        charts["leakage.png"] = partial(
            evaluation_plots.leakage_heatmap, edits.moved[:, seen], rows, columns
        )
    for name, draw in charts.items():
        if picture := save_or_warn(draw, storage.join(config.output, name)):
            run.picture(name, picture)


def _reconstructions(config: EvaluateConfig, subject: Subject) -> Image.Image:
    """Held-out faces, always the same ones, above their reconstructions."""
    split = next(s for s in reversed(HELD_OUT_SPLITS) if subject.manifest.rows(s))
    stored = torch.from_numpy(spread_images(config.shards, subject.manifest, split, SHOWN))
    vae = subject.model.vae
    with torch.inference_mode():
        images = model_input(stored, vae.image_size, vae.resize_method)
        others = to_pixels(vae.decode(vae.encode(images).mean)).numpy()
    return Image.fromarray(reconstruction_grid(to_pixels(images).numpy(), others))
