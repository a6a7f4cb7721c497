"""What a user keeps in an output folder survives every command, byte for byte."""

import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from facevae.commands import benchmark as benchmark_module
from facevae.commands.align import align_photographs
from facevae.commands.attributes import compute_attributes
from facevae.commands.benchmark import benchmark
from facevae.commands.quickstart import quickstart
from facevae.commands.shards import shard_faces
from facevae.commands.train import train_model
from facevae.config import (
    AlignConfig,
    AttributesConfig,
    BenchmarkConfig,
    ModelConfig,
    QuickstartConfig,
    ShardsConfig,
    TrainConfig,
)
from facevae.errors import UserError
from facevae.models import build_vae
from facevae.models.checkpoint import ModelCard, save_model
from tests.photographs import background

pytestmark = pytest.mark.usefixtures("ray_cluster")
QUIET = {"system_metrics": False}
COMMANDS = ("shards", "train", "attributes", "edit")
OWN_FOLDERS = (
    *("data", "records", "latents", "statistics", "tries"),
    *("checkpoints", "model", "best", "grids", "measured", "settings"),
)
FOREIGN = (
    *(".git/HEAD", ".gitignore", ".dvc/config", "notes.txt", "images/a.jpg"),
    *(
        f"{folder}/{name}"
        for folder in OWN_FOLDERS
        for name in (".git/config", ".hidden/x", ".keep", "README.md")
    ),
    *("data/.train-00000.parquet.original", "records/.train-00000.json.abcdefgh"),
    *("checkpoints/.step_0000001.mine/x", "checkpoints/step_1/notes", "tries/.git/0.json"),
)
KILLED_WRITER = Path(__file__).parents[1] / "drivers" / "killed_writer.py"


def plant(folder: Path) -> None:
    for name in FOREIGN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"mine: {name}")


def assert_untouched(folder: Path) -> None:
    for name in FOREIGN:
        assert (folder / name).read_text() == f"mine: {name}"


def leave_scratch(*targets: Path) -> set[Path]:
    """What a process leaves behind that is killed while it writes."""
    before = {path for target in targets for path in target.parent.iterdir()}
    words = [(f"atomic_{'file' if target.suffix else 'folder'}", target) for target in targets]
    process = subprocess.run([sys.executable, KILLED_WRITER, *chain(*words)], check=False)
    assert process.returncode == -9
    return {path for target in targets for path in target.parent.iterdir()} - before


def test_every_command_leaves_foreign_files_when_fresh_repeated_killed_and_resumed(
    tmp_path, capsys
):
    config = QuickstartConfig(
        output=str(tmp_path),
        drawn={"count": 120, "seed": 3},
        sharding={"image_size": 64, "images_per_shard": 40},
        model={"latent_size": 4},
        loss={"reconstruction": "pixel"},
        training={
            **{"steps": 4, "global_batch_size": 8, "checkpoint_every": 1, "precision": "fp32"},
            **{"grid_every": 2, "grid_faces": 8, "validate_every": 2, "validation_images": 8},
        },
        scaling={"workers": 1},
        encoding={"actors": 1, "batch_size": 32, "min_count": 1},
        editing={"attribute": ["Smiling"], "image_ids": ["000001.jpg"]},
        tracking=QUIET,
    )
    outputs = [tmp_path, *(tmp_path / command for command in COMMANDS)]
    for output in outputs:
        plant(output)

    def run(config: QuickstartConfig) -> None:
        quickstart(config)
        for output in outputs:
            assert_untouched(output)

    run(config)
    checkpoints = tmp_path / "train" / "checkpoints"
    assert (checkpoints / "step_0000004").is_dir()
    assert not (checkpoints / "step_0000001").exists()
    run(config)

    for name in (
        *("shards/manifest.json", "shards/result.json", "shards/records/train-00000.json"),
        *("train/result.json", "train/checkpoints/step_0000004/training.json"),
        *("attributes/result.json", "attributes/statistics/train-00000.npz"),
    ):
        (tmp_path / name).unlink()
    left = leave_scratch(
        tmp_path / "shards" / "data" / "train-00000.parquet",
        tmp_path / "shards" / "records" / "train-00000.json",
        tmp_path / "attributes" / "latents" / "train-00000.parquet",
        tmp_path / "attributes" / "statistics" / "train-00000.npz",
        checkpoints / "step_0000004",
    )
    assert len(left) == 5
    notes = [checkpoints / f"step_000000{step}" / "notes.txt" for step in (3, 4)]
    for note in notes:
        note.write_text("mine")
    training = config.training.model_copy(update={"checkpoints_kept": 1, "keep_best": False})
    run(config.model_copy(update={"training": training}))
    assert not any(path.exists() for path in left)
    assert [note.read_text() for note in notes] == ["mine", "mine"]
    assert "step_0000003 is not removed, since it holds files" in capsys.readouterr().err
    assert (checkpoints / "step_0000004" / "training.json").exists()


def test_a_benchmark_leaves_foreign_files_when_fresh_and_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_module, "_cases", lambda *_: {"start": lambda: {"ours": [1.0]}})
    plant(tmp_path)
    for _ in range(2):
        benchmark(BenchmarkConfig(output=str(tmp_path), cases=("start",), tracking=QUIET))
        assert_untouched(tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    config = ModelConfig(latent_size=4)
    save_model(folder, build_vae(config).state_dict(), ModelCard(config, 0, "shards", "run"))
    return str(folder)


@pytest.fixture
def commands(model, shards, tmp_path_factory):
    """What runs each command in an output folder."""
    photographs = tmp_path_factory.mktemp("photographs")
    background(40, 40).save(photographs / "a.png")
    model_and_shards = {"model": model, "shards": str(shards), "tracking": QUIET}
    data = {"shards": str(shards), "tracking": QUIET}
    pixel = {"loss": {"reconstruction": "pixel"}}
    return {
        "align": lambda output: align_photographs(
            AlignConfig(output=output, images=str(photographs), tracking=QUIET)
        ),
        "shards": lambda output: shard_faces(
            ShardsConfig(output=output, drawn={"count": 8}, tracking=QUIET)
        ),
        "train": lambda output: train_model(TrainConfig(output=output, **data, **pixel)),
        "attributes": lambda output: compute_attributes(
            AttributesConfig(output=output, **model_and_shards)
        ),
        "quickstart": lambda output: quickstart(QuickstartConfig(output=output, **data, **pixel)),
        "benchmark": lambda output: benchmark(BenchmarkConfig(output=output, tracking=QUIET)),
    }


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *[("align", "aligned.json"), ("align", "parts/part-00000.parquet")],
        *[("shards", "manifest.json"), ("shards", "data/train-00000.parquet")],
        *[("train", "model/model.safetensors"), ("train", "checkpoints/step_0000500/notes")],
        *[("train", "result.json"), ("attributes", "attribute_vectors.h5")],
        *[("attributes", "latents/train-00001.parquet"), ("quickstart", "result.json")],
        *[("benchmark", "result.md")],
    ],
)
def test_a_command_refuses_to_replace_a_file_that_it_did_not_write(
    commands, tmp_path, command, name
):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=r"is not of this program.* choose another --output"):
        commands[command](str(tmp_path))
    assert (tmp_path / name).read_text() == "mine"
