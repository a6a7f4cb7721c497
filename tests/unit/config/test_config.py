"""Settings: all described, checked against each other; the recipes parse and say what they cost."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from facevae import config
from facevae.cli import parse
from facevae.config import (
    BenchmarkConfig,
    EditingConfig,
    LossConfig,
    Settings,
    ShardingConfig,
    SourceConfig,
    TrainConfig,
    TrainingConfig,
)
from facevae.config.editing import NOT_OF_PRESETS

RECIPES = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))
SECTIONS = [
    value
    for value in vars(config).values()
    if isinstance(value, type) and issubclass(value, Settings)
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_setting_has_a_description(section):
    assert section.__doc__
    for name, field in section.model_fields.items():
        assert field.description or field.annotation in SECTIONS, name


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_an_unknown_key_is_refused(section):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        section(no_such_setting=1)


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        TrainConfig().output = "elsewhere"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is_for_and_parses(path):
    lines = path.read_text().splitlines()
    head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    for word in ("Command:", "Hardware:", "Time:", "Expect:"):
        assert sum(line.startswith(f"# {word}") for line in head) == 1, word
    assert f"configs/{path.name}" in head[0]
    command = "benchmark" if path.stem == "benchmark" else "train"
    parsed = parse(command, ["--config", str(path)])
    assert parsed.output == f"runs/{path.stem}"
    if path.stem == "benchmark":
        assert parsed == BenchmarkConfig()
    elif path.stem == "quickstart":
        assert parse("quickstart", ["--config", str(path)]).training == parsed.training
    else:
        assert parsed.model.name == ("dfc_vae" if "faithful" in path.stem else path.stem)
        assert parsed.training.steps == 50_000
        assert parsed.loss.layers == ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")


def test_the_faithful_recipe_keeps_what_the_original_does():
    """What it leaves to defaults too, which must stay the original's."""
    recipe = next(path for path in RECIPES if path.stem == "facenet_faithful")
    parsed = parse("train", ["--config", str(recipe)])
    model, loss, training = parsed.model, parsed.loss, parsed.training
    assert (model.form, model.latent_size, model.batch_norm_decay) == ("faithful", 100, 0.995)
    assert (loss.reconstruction, loss.network) == ("perceptual", "inception_resnet_v1")
    assert (loss.layer_weights, loss.pixel_weight, loss.alfa, loss.beta) == (None, 0, 1, 0.5)
    assert (loss.network_image_size, parsed.sharding.image_size) == (None, 160)
    left, top, right, bottom = parsed.sharding.crop
    assert (left, top, 182 - right, 182 - bottom) == (11, 11, 11, 11)
    assert (training.global_batch_size, training.learning_rate) == (128, 2e-4)
    assert (training.schedule, training.decay_factor, training.warmup_steps) == ("step", 1, 0)
    assert (training.gradient_clip_norm, training.ema_decay) == (None, None)
    assert (training.precision, training.horizontal_flip) == ("fp32", False)
    assert training.sync_batch_norm, "the original's batch norm sees all 128 images"


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {"quickstart", "dfc_vae", "dfc_vae_resnet"}


@pytest.mark.parametrize(
    ("workers", "fewest", "most"), [(1, 1, 1), (128, 128, 128), (3, 3, 3), ([2, 8], 2, 8)]
)
def test_any_number_of_workers_shares_a_batch(workers, fewest, most):
    scaling = TrainConfig(training={"global_batch_size": 128}, scaling={"workers": workers}).scaling
    assert (scaling.fewest, scaling.most, scaling.is_elastic) == (fewest, most, fewest < most)


@pytest.mark.parametrize(
    ("scaling", "problem"),
    [
        ({"workers": 6}, "5 has no image for some of 6 workers"),
        ({"workers": [1, 6]}, "5 has no image for some of 6 workers"),
        ({"workers": [3, 2]}, r"workers \[3, 2\] is no range"),
        ({"workers": [0, 2]}, "greater than or equal to 1"),
        ({"workers": [1, 2], "cpus_per_worker": 0.3}, "a multiple of 0.25"),
    ],
)
def test_workers_that_cannot_be_are_refused(scaling, problem):
    with pytest.raises(ValidationError, match=problem):
        TrainConfig(training={"global_batch_size": 5}, scaling=scaling)


ONE = ({"name": "a", "images": "d"},)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({}, None),
        ({"images": "d", "attributes": "f"}, None),
        ({"images": "d", "attributes": "f", "partition": "p", "identities": "i"}, None),
        ({"images": "d"}, None),
        ({"attributes": "f"}, "--attributes needs --images"),
        ({"partition": "p"}, "--partition needs --images"),
        ({"identities": "i"}, "--identities needs --images"),
        ({"file_names": "lfw"}, "--file_names needs --images"),
        ({"images": "d", "file_names": "lfw", "attributes": "f"}, None),
        ({"images": "d", "file_names": "lfw", "identities": "i"}, "both say the identities"),
        ({"images": "d", "file_names": "utkface", "attributes": "f"}, "both say the attributes"),
        ({"images": "d", "sources": ONE}, "--images and --sources both say"),
        ({"attributes": "f", "sources": ONE}, "--attributes needs --images"),
        ({"sources": ONE + ONE}, "two sources are called 'a'"),
        ({"sources": ({"name": "a/b", "images": "d"},)}, "name"),
        ({"sources": ({"name": "a"},)}, "images"),
    ],
)
def test_the_flags_of_a_source_go_together(flags, problem):
    if problem is None:
        assert SourceConfig(**flags).model_dump(exclude_unset=True) == flags
    else:
        with pytest.raises(ValidationError, match=problem):
            SourceConfig(**flags)


def test_a_preset_stands_alone():
    assert EditingConfig(preset="facenet_smile").preset == "facenet_smile"
    others = {
        **{"attribute": ["Male"], "strengths": [1], "image_ids": ["a"], "faces": 3, "columns": 3},
        **{"method": "partial", "hold": ["Male"], "level": [0], "damp": False, "transfer": "a"},
        **{"interpolate": ["a", "b"], "interpolation": "linear", "steps": 3, "random": 4},
        **{"seed": 1, "components": 2, "mix": ["Male=1"]},
    }
    assert set(others) == set(EditingConfig.model_fields) - {*NOT_OF_PRESETS}
    for name, value in others.items():
        EditingConfig(**{name: value})
        with pytest.raises(ValidationError, match=f"fixes {name}"):
            EditingConfig(**{"preset": "facenet_smile", name: value})


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"hold": ["Male", "Smiling"]}, "Smiling is to be changed and held"),
        ({"hold": ["Male", "Male"]}, "named twice"),
        ({"attribute": ["Male", "Male"]}, "named twice"),
        ({"level": [1], "strengths": [1, 2]}, "level and strengths are edits of different kinds"),
        ({"random": 3, "components": 2}, "random and components are edits of different kinds"),
    ],
)
def test_edits_that_contradict_themselves_are_refused(settings, problem):
    with pytest.raises(ValidationError, match=problem):
        EditingConfig(**settings)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (TrainingConfig, {"learning_rate": float("nan")}),
        (TrainingConfig, {"learning_rate": float("inf")}),
        (TrainingConfig, {"steps": 10, "warmup_steps": 10}),
        (TrainingConfig, {"ema_decay": 1}),
        (EditingConfig, {"strengths": [float("nan")]}),
        (EditingConfig, {"strengths": []}),
        (LossConfig, {"layers": []}),
        (LossConfig, {"layer_weights": [1.0]}),
        (LossConfig, {"reconstruction": "pixel", "layer_weights": [1.0, 1.0, 1.0]}),
        (EditingConfig, {"image_ids": []}),
        (ShardingConfig, {"crop": [0, 0, 0, 5]}),
        (ShardingConfig, {"crop": [-1, 0, 5, 5]}),
        (ShardingConfig, {"crop": "oval"}),
    ],
)
def test_a_value_out_of_range_is_refused(section, values):
    with pytest.raises(ValidationError):
        section(**values)


def test_weights_in_the_home_of_nobody_are_a_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    loss = {"network": "inception_resnet_v1", "layers": ["Conv2d_1a_3x3"]}
    for given, file in {
        "~no_such_user/a.pt": tmp_path / "~no_such_user" / "a.pt",
        "~/a.pt": Path("/home/me/a.pt"),
        "a.pt": tmp_path / "a.pt",
    }.items():
        assert LossConfig(**loss, weights=given).own_weights == file


def test_the_old_name_of_a_setting_goes_on():
    assert ShardingConfig(**{"tries": 7}) == ShardingConfig(attempts=7)
    assert ShardingConfig(**{"tries": 7, "attempts": 8}).attempts == 8
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        ShardingConfig(**{"tries": 0})
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        TrainingConfig(**{"tries": 7})
