"""What a training's folder is of, and how often weights travel at its end."""

import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from s3fs import S3FileSystem

from facevae.commands import run_step, train
from facevae.commands.paths import with_absolute_paths
from facevae.commands.plan import describe_plan
from facevae.commands.quickstart import quickstart
from facevae.commands.train import _tell_of_idle_gpus, train_identity, train_model
from facevae.config import ModelConfig, QuickstartConfig, ScalingConfig, TrainConfig
from facevae.data.shard_files import Manifest, Shard, read_manifest, write_manifest
from facevae.errors import UserError
from facevae.models import build_vae
from facevae.models.checkpoint import ModelCard, TrainingState, save_model, save_training
from facevae.ray_cluster.nodes import Node
from facevae.ray_cluster.placement import plan_workers
from facevae.tracking import start_run
from facevae.training.checkpoint_manager import CheckpointManager
from facevae.training.publish import keep_and_log_models


def identity(**settings) -> dict:
    return train_identity(TrainConfig(output="unused", **settings))


def test_what_changes_no_result_may_change():
    keeping = {"failed_checkpoints_allowed": 9, "checkpoints_kept": 1, "keep_best": False}
    assert identity(training=keeping) == identity()
    assert identity(sharding={"max_bad_fraction": 0.5, "attempts": 9}) == identity()
    assert identity(scaling={"workers": 3}, tracking={"experiment": "other"}) == identity()


@pytest.mark.parametrize("setting", ["seed", "checkpoint_every"])
def test_what_changes_the_run_does_not(setting):
    assert identity(training={setting: 7}) != identity()
    assert identity(sharding={"image_size": 32}) != identity()


@pytest.mark.parametrize("name", ["shards", "images"])
def test_one_place_is_one_data_set_however_it_is_spelled(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    labels = {"attributes": "labels.csv"} if name == "images" else {}

    def spelled(path: str) -> dict:
        return train_identity(with_absolute_paths(TrainConfig(**{name: path}, **labels)))

    spellings = [f"{tmp_path}/x", f"{tmp_path}/x/", "x", "./x/", f"file://{tmp_path}/x", "y/../x"]
    assert all(spelled(path) == spelled("x") for path in spellings)
    if name == "images":  # shards are known by their digest, wherever they lie
        assert spelled("x") != spelled("y")


def test_a_precision_that_is_not_chosen_is_left_out():
    assert "precision" not in identity(training={"precision": "auto"})["training"]
    assert identity(training={"precision": "bf16"})["training"]["precision"] == "bf16"


def test_shards_that_are_not_there_are_found_before_anything_is_made(tmp_path):
    (tmp_path / "empty").mkdir()
    missing = TrainConfig(output=str(tmp_path / "run"), shards=str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"no shards in .*run `facevae shards`"):
        train_model(missing)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("workers", "gpu", "kind", "said"),
    [
        (2, "auto", "T4", "2 workers would need a GPU each and there are 1: with --scaling.work"),
        (1, "auto", "T4", ""),
        (2, "no", "T4", ""),
        (1, "auto", "V100", ""),
    ],
)
def test_gpus_that_stay_idle_are_told_of(capsys, workers, gpu, kind, said):
    scaling, nodes = ScalingConfig(workers=workers, gpu=gpu), [Node(8, 1, gpu_type=kind)]
    _tell_of_idle_gpus(scaling, plan_workers(scaling, nodes), nodes)
    told = capsys.readouterr().err
    assert told.count("\n") == bool(said)
    assert said in told


@pytest.fixture
def faces(tmp_path) -> Path:
    """A folder of shards, as its manifest tells."""
    write_data_set(tmp_path / "faces")
    return tmp_path / "faces"


def write_data_set(folder: Path, sha256: str = "1", **changes) -> str:
    """Write the manifest of a data set that differs from others in the digest of its images."""
    shards = [Shard(f"{split}-00000", split, 9, 1, sha256) for split in ("train", "val")]
    manifest = Manifest(("Smiling",), 64, tuple(shards), {}, {}, {}, False)
    write_manifest(str(folder), replace(manifest, **changes))
    return read_manifest(str(folder)).digest


@pytest.fixture
def quick(monkeypatch) -> list[str]:
    """Trainings of no steps and without a record; the shards of each."""
    trained: list[str] = []

    @contextmanager
    def no_record(*_, **__):
        yield SimpleNamespace(dataset=lambda *_: None, tags=lambda *_: None)

    def no_training(config, plan, shards, run, weights):
        trained.append(shards)

    def no_models(config, *_):
        card = Path(config.output) / "model" / "model.json"
        card.parent.mkdir(exist_ok=True)
        card.write_text("{}")
        return {"steps": 0.0}

    monkeypatch.setattr(run_step, "start_run", no_record)
    monkeypatch.setattr(train, "connect", lambda: None)
    monkeypatch.setattr(train, "cluster_nodes", lambda: [Node(2, 0)])
    monkeypatch.setattr(train, "run_training", no_training)
    monkeypatch.setattr(train, "spread_images", lambda *_: None)
    monkeypatch.setattr(train, "keep_and_log_models", no_models)
    return trained


def training(output: Path, shards: str | Path | None, **settings) -> TrainConfig:
    return TrainConfig(
        output=str(output),
        shards=None if shards is None else str(shards),
        tracking={"system_metrics": False},
        **({"loss": {"reconstruction": "pixel"}} | settings),
    )


CHANGES = [{"sha256": "2"}, {"attribute_names": ("Male",)}, {"preprocessing": {"crop": 1}}]


@pytest.mark.parametrize("changes", CHANGES, ids=["images", "labels", "preprocessing"])
@pytest.mark.parametrize("is_finished", [True, False])
def test_another_data_set_at_the_same_path_is_refused(faces, tmp_path, quick, changes, is_finished):
    config = training(tmp_path / "run", faces)
    train_model(config)
    if not is_finished:
        (tmp_path / "run" / "result.json").unlink()
    write_data_set(faces, **changes)
    with pytest.raises(UserError, match=r"of another shards_digest .*put those back to go on"):
        train_model(config)
    write_data_set(faces)
    train_model(config)
    assert len(quick) == (1 if is_finished else 2)


def test_the_same_shards_may_lie_elsewhere_and_be_spelled_otherwise(
    faces, tmp_path, quick, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    train_model(training(tmp_path / "run", faces))
    write_data_set(tmp_path / "copy")
    for spelling in (f"{faces}/", "faces", f"file://{faces}", tmp_path / "copy"):
        train_model(training(tmp_path / "run", spelling))
    assert quick == [str(faces)]


def test_a_run_on_shards_does_not_go_on_with_synthetic_faces(faces, tmp_path, quick):
    train_model(training(tmp_path / "run", faces))
    with pytest.raises(UserError, match=rf"of another shards \({faces} there, None here\)"):
        train_model(training(tmp_path / "run", None))


def test_other_shards_in_the_output_are_refused_too(tmp_path, quick, monkeypatch):
    """They are made there, which is found done, and may be exchanged afterwards."""
    monkeypatch.setattr(train, "shard_faces", lambda config: {})
    config = training(tmp_path / "run", None)
    write_data_set(tmp_path / "run" / "shards")
    train_model(config)
    (tmp_path / "run" / "result.json").unlink()
    write_data_set(tmp_path / "run" / "shards", "2")
    with pytest.raises(UserError, match="of another shards_digest"):
        train_model(config)
    assert len(quick) == 1


def _forget_digest(run: Path) -> None:
    """Make a run look like one of a version that kept no digest, killed on its way."""
    claim = json.loads((run / "config.json").read_text())
    del claim["shards_digest"]
    (run / "config.json").write_text(json.dumps(claim))
    (run / "result.json").unlink()


@pytest.mark.parametrize("newest", ["whole", "damaged", "none"])
def test_a_run_of_a_version_without_digests_goes_by_its_checkpoints(faces, tmp_path, quick, newest):
    config = training(tmp_path / "run", faces)
    train_model(config)
    _forget_digest(tmp_path / "run")
    cards = {2: "{", 1: json.dumps({"shards_digest": read_manifest(str(faces)).digest})}
    cards = {"whole": {1: cards[1]}, "damaged": cards, "none": {}}[newest]
    for step, card in cards.items():
        folder = tmp_path / "run" / "checkpoints" / f"step_{step:07d}"
        folder.mkdir(parents=True)
        (folder / "model.json").write_text(card)
    if cards:
        write_data_set(faces, "2")
        with pytest.raises(UserError, match="of another shards_digest"):
            train_model(config)
        write_data_set(faces)
    train_model(config)
    claim = json.loads((tmp_path / "run" / "config.json").read_text())
    assert claim["shards_digest"] == read_manifest(str(faces)).digest


RATES = {"decayed": {"decay_factor": 0.5}, "warm": {"warmup_steps": 2}, "constant": {}}


@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
@pytest.mark.parametrize("is_finished", [True, False])
def test_steps_may_be_raised_where_rates_do_not_depend_on_them(
    faces, tmp_path, quick, rates, is_finished
):
    for trained, steps in enumerate((4, 8, 9), start=1):
        train_model(training(tmp_path / "run", faces, training={**rates, "steps": steps}))
        assert len(quick) == trained
        if not is_finished:
            (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(UserError, match=r"another training\.steps \(9 there, 8 here\)"):
        train_model(training(tmp_path / "run", faces, training={**rates, "steps": 8}))


@pytest.mark.parametrize("steps", [8, 3])
def test_steps_of_the_cosine_schedule_stay_and_it_is_said_why(faces, tmp_path, quick, steps):
    cosine = {"schedule": "cosine", "steps": 4}
    train_model(training(tmp_path / "run", faces, training=cosine))
    said = rf"\(4 there, {steps} here\); .*cosine .* start there with --init_from {tmp_path}/run$"
    with pytest.raises(UserError, match=said):
        train_model(training(tmp_path / "run", faces, training={**cosine, "steps": steps}))
    train_model(training(tmp_path / "run", faces, training=cosine))
    assert len(quick) == 1


SMALL = {"latent_size": 4}


def write_model(folder: Path, seed: int = 0, **model) -> str:
    """A model; returns its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    config = ModelConfig(**(SMALL | model))
    card = ModelCard(config, 7, "shards", "its run")
    return save_model(folder, build_vae(config).state_dict(), card).digest


def test_a_training_from_weights_is_bound_to_them_wherever_they_lie(faces, tmp_path, quick):
    digest = write_model(tmp_path / "old" / "model")
    start = {"model": SMALL, "init_from": str(tmp_path / "old")}
    train_model(training(tmp_path / "run", faces, **start))
    claim = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (claim["init_from"], claim["init_digest"]) == (start["init_from"], digest)
    (tmp_path / "old").rename(tmp_path / "moved")
    moved = start | {"init_from": str(tmp_path / "moved" / "model")}
    train_model(training(tmp_path / "run", faces, **moved))
    write_model(tmp_path / "moved" / "model", seed=1)
    with pytest.raises(UserError, match=r"another init_digest .*name those to go on"):
        train_model(training(tmp_path / "run", faces, **moved))
    with pytest.raises(UserError, match=r"another init_from \(.*old there, None here\)"):
        train_model(training(tmp_path / "run", faces, model=SMALL))
    assert len(quick) == 1


@pytest.mark.parametrize("version", ["today's", "one without --init_from"])
def test_a_training_that_began_without_weights_takes_none(faces, tmp_path, quick, version):
    write_model(tmp_path / "old")
    train_model(training(tmp_path / "run", faces, model=SMALL))
    claim = json.loads((tmp_path / "run" / "config.json").read_text())
    if version != "today's":
        del claim["init_from"], claim["init_digest"]
        (tmp_path / "run" / "config.json").write_text(json.dumps(claim))
    train_model(training(tmp_path / "run", faces, model=SMALL))
    with pytest.raises(UserError, match=r"another init_digest \(None there"):
        train_model(training(tmp_path / "run", faces, model=SMALL, init_from=f"{tmp_path}/old"))


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"latent_size": 5}, r"of model\.latent_size 5, and .* is 4: give --model\.latent_size 5"),
        (
            {"smooth_output": True},
            r"model\.smooth_output True, and .* is False: give --model\.smoo",
        ),
        ({"name": "dfc_vae_resnet"}, r"of model\.name dfc_vae_resnet, and .* is dfc_vae: give"),
        ({"form": "faithful"}, r"of model\.form faithful, and the training's is default: give"),
        (None, r"no model in .*/old: expected a folder with model\.json"),
    ],
)
def test_weights_that_do_not_fit_are_found_before_anything_is_made(
    faces, tmp_path, quick, theirs, message
):
    if theirs is not None:
        write_model(tmp_path / "old", **theirs)
    config = training(tmp_path / "run", faces, model=SMALL, init_from=str(tmp_path / "old"))
    with pytest.raises(UserError, match=message):
        train_model(config)
    with pytest.raises(UserError, match=message):
        describe_plan("train", config, [Node(2, 0)], is_cluster=True)
    assert not (tmp_path / "run").exists()


def test_a_quickstart_with_more_steps_is_refused_while_its_vectors_are_of_fewer(tmp_path):
    for folder, claim in (("train", {"training": {"steps": 4}}), ("attributes", {})):
        (tmp_path / folder).mkdir()
        name = "config.json" if folder == "train" else "source.json"
        (tmp_path / folder / name).write_text(json.dumps(claim))
    config = QuickstartConfig(output=str(tmp_path), training={"steps": 8})
    with pytest.raises(UserError, match=r"attributes is of the model of 4 steps, not 8"):
        quickstart(config)
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(("best", "downloads"), [(1, 2), (2, 1)])
def test_weights_travel_from_and_to_s3_no_more_than_they_must(
    s3, tmp_path, monkeypatch, best, downloads
):
    """The last checkpoint and the best one come once each; the model and the best go once each."""
    monkeypatch.chdir(tmp_path)
    tracking = {"uri": f"sqlite:///{tmp_path}/mlflow.db", "system_metrics": False}
    model, training = {"latent_size": 4}, {"steps": 2}
    config = TrainConfig(output=s3, model=model, training=training, tracking=tracking)
    _keep_checkpoints(config, best)
    travelled: Counter[str] = Counter()
    for name in ("_get_file", "_put_file"):
        monkeypatch.setattr(S3FileSystem, name, _counted(name, travelled))
    faces = np.zeros((2, 64, 64, 3), np.uint8)
    with start_run(config.tracking, "train", str(tmp_path), {}) as run:
        metrics = keep_and_log_models(config, faces, run, None)
    assert (metrics["steps"], metrics["best_step"]) == (2, best)
    assert travelled == {"_get_file": downloads, "_put_file": 2}


def _keep_checkpoints(config: TrainConfig, best: int):
    weights = build_vae(config.model).state_dict()
    history = [{"step": step, "validation/loss": float(step != best)} for step in (1, 2)]
    checkpoints = CheckpointManager(config.output, config.training)
    for step in (1, 2):
        state = TrainingState(step, weights, None, {}, history[:step])
        card = ModelCard(config.model, step, "digest", "run")

        def write(folder, state=state, card=card):
            save_training(folder, state, card, {})

        checkpoints.save(step, state.history, write)
    checkpoints.finish()


def _counted(name: str, travelled: Counter[str]):
    """A transfer of S3's, which counts those of weights."""
    transfer = getattr(S3FileSystem, name)

    async def counted(self, source, target, **settings):
        travelled[name] += str(source).endswith("/model.safetensors")
        return await transfer(self, source, target, **settings)

    return counted
