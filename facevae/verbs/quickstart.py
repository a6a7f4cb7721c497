"""`quickstart`: from faces to a smile; the other verbs in a row, in one folder and one store."""

from typing import TypeVar

from facevae import storage
from facevae.attributes.vectors import index_of
from facevae.config import (
    AttributesConfig,
    EditConfig,
    QuickstartConfig,
    ShardsConfig,
    TrackingConfig,
    TrainConfig,
)
from facevae.data.shards import read_manifest
from facevae.progress import say
from facevae.tracking import store_uri
from facevae.verbs.attributes import compute_attributes
from facevae.verbs.edit import edit_faces
from facevae.verbs.shards import shard_faces
from facevae.verbs.train import CLAIM, train_model

# Training reads the shards that were made of them.
NO_IMAGES = dict.fromkeys(("images", "attributes", "partition", "identities"))


def quickstart(config: QuickstartConfig) -> dict[str, float]:
    """Shards, training, attribute vectors and edited faces, below one output folder.

    Returns:
        The figures of training, attributes and editing.

    Raises:
        UserError: as the verbs do.
    """
    output = storage.absolute(config.output)
    if not storage.exists(storage.join(output, "train", CLAIM)):
        storage.refuse_foreign(output, r"result\.json")
    uri = store_uri(config.tracking, output)
    tracking = config.tracking.model_copy(update={"uri": uri})
    places = {
        verb: storage.join(output, verb) for verb in ("shards", "train", "attributes", "edit")
    }
    shards = config.shards and storage.absolute(config.shards)
    if shards is None:
        shards = places["shards"]
        shard_faces(_part(ShardsConfig, config, tracking, output=shards))
    names = read_manifest(shards).attribute_names
    for name in config.editing.attribute:
        index_of(name, names)  # before hours of training, not after
    figures = train_model(
        _part(TrainConfig, config, tracking, output=places["train"], shards=shards, **NO_IMAGES)
    )
    figures |= compute_attributes(
        AttributesConfig(
            output=places["attributes"],
            shards=shards,
            model=places["train"],
            encoding=config.encoding,
            tracking=tracking,
        )
    )
    figures |= edit_faces(
        EditConfig(
            output=places["edit"],
            model=places["train"],
            vectors=places["attributes"],
            editing=config.editing,
            tracking=tracking,
        )
    )
    storage.write_json(storage.join(output, "result.json"), figures)
    _tell(places, uri)
    return figures


Part = TypeVar("Part", ShardsConfig, TrainConfig)


def _part(
    kind: type[Part], config: QuickstartConfig, tracking: TrackingConfig, **changes: str | None
) -> Part:
    """The settings of one verb, taken from those of all."""
    shared = {name: getattr(config, name) for name in kind.model_fields}
    return kind(**(shared | {"tracking": tracking, **changes}))


def _tell(places: dict[str, str], uri: str) -> None:
    pictures = {
        "reconstructed faces": storage.join(places["train"], "grids"),
        "loss curves": storage.join(places["train"], "curves.png"),
        "vector similarity": storage.join(places["attributes"], "similarity.png"),
        "held-out AUC": storage.join(places["attributes"], "auc.png"),
        "edited faces": storage.join(places["edit"], "edit_labelled.png"),
    }
    say("pictures:")
    for name, place in pictures.items():
        say(f"  {name:<20}{place}")
    is_server = uri.startswith(("http://", "https://"))
    say(f"all runs: {uri}" if is_server else f"all runs: mlflow ui --backend-store-uri {uri}")
