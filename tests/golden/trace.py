"""Golden traces: what short trainings, an attribute pass and an edit leave, as numbers and digests.

A change that only moves code must leave them as they are: bit for bit on the processor that made
them, to rounding on another. They were written by commit 2cf8a09 through the command line, so that
the same file runs on any commit:

    python -m tests.golden.trace write tests/golden/traces.json
    python -m tests.golden.trace check tests/golden/traces.json
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from PIL import Image

from facevae.cli import main
from facevae.config import EditingConfig

STEPS = 6
TIMES = {"train/images_per_second", "train/waiting_for_data"}
TOLERANCE = 1e-3
"""relative, between two kinds of processor: rounding, after six steps of Adam"""
ABSENT = -1.0

PIXEL = ["--loss.reconstruction", "pixel", "--loss.beta", "1e-4"]
PERCEPTUAL = ["--loss.beta", "0.0078125"]
AVERAGED = ["--training.ema_decay", "0.9", "--training.schedule", "cosine",
            "--training.warmup_steps", "2", "--training.gradient_clip_norm", "1000"]  # fmt: skip
TRAININGS = {
    "pixel": ["--scaling.workers", "1", *PIXEL, "--training.horizontal_flip", "true"],
    "pixel_faithful_two_workers": ["--scaling.workers", "2", *PIXEL, "--model.form", "faithful"],
    "perceptual_faithful": ["--scaling.workers", "1", *PERCEPTUAL, "--model.form", "faithful"],
    "perceptual_two_workers": ["--scaling.workers", "2", *PERCEPTUAL, *AVERAGED],
    "pixel_bf16": ["--scaling.workers", "1", *PIXEL, "--training.precision", "bf16"],
}
MODEL = "perceptual_two_workers"


def run(folder: Path) -> dict[str, Any]:
    """The traces of this commit: by part, numbers to compare and digests of bits."""
    _facevae(
        "shards", folder / "shards", "--drawn.count", "240", "--drawn.seed", "5",
        "--sharding.image_size", "64", "--sharding.images_per_shard", "60",
    )  # fmt: skip
    traces = {}
    for name, options in TRAININGS.items():
        _facevae(
            "train", folder / name, "--shards", str(folder / "shards"), *options,
            "--model.latent_size", "8", "--training.steps", str(STEPS),
            "--training.global_batch_size", "16", "--training.log_every", "1",
            "--training.validate_every", "3", "--training.validation_images", "16",
            "--training.grid_every", str(STEPS), "--training.grid_faces", "4",
            "--training.checkpoint_every", "3",
        )  # fmt: skip
        traces[name] = _training(folder / name)
    _facevae(
        "attributes", folder / "attributes", "--shards", str(folder / "shards"),
        "--model", str(folder / MODEL), "--encoding.min_count", "5", "--encoding.precision", "fp32",
    )  # fmt: skip
    traces["attributes"] = _vectors(folder / "attributes")
    _facevae(
        "edit", folder / "edit", "--model", str(folder / MODEL),
        "--vectors", str(folder / "attributes"), "--editing.faces", "3",
        "--editing.strengths", "[-1,0,2]", *_as_the_first_version(),
    )  # fmt: skip
    traces["edit"] = _picture(folder / "edit" / "edit.png")
    return {"processor": processor(), "torch": torch.__version__, "traces": traces}


def _as_the_first_version() -> list[str]:
    """The options that make an edit that of commits which had one method, and no damping."""
    settings = EditingConfig.model_fields
    options = {"method": "mean", "damp": "false"}
    return [
        word
        for name, value in options.items()
        if name in settings
        for word in (f"--editing.{name}", value)
    ]


def _facevae(command: str, output: Path, *options: str) -> None:
    words = [command, "--output", str(output), "--tracking.system_metrics", "false", *options]
    code = main(words)
    assert code == 0, f"facevae {' '.join(words)} ended with {code}"


def _training(output: Path) -> dict[str, Any]:
    checkpoint = output / "checkpoints" / f"step_{STEPS:07d}"
    history = json.loads((checkpoint / "training.json").read_text())["history"]
    numbers = {
        f"{name}@{row['step']}": value
        for row in history
        for name, value in row.items()
        if name not in TIMES and name != "step"
    }
    model = json.loads((output / "model" / "model.json").read_text())
    weights = {file: _sha256(checkpoint / file) for file in _weight_files(checkpoint)}
    grid = _picture(output / "grids" / f"step_{STEPS:06d}.png")
    return {
        "numbers": numbers | {f"grid {key}": value for key, value in grid["numbers"].items()},
        "bits": {"model": model["digest"], **weights, "grid": grid["bits"]["pixels"]},
    }


def _weight_files(checkpoint: Path) -> list[str]:
    return sorted(path.name for path in checkpoint.glob("*.safetensors"))


def _vectors(output: Path) -> dict[str, Any]:
    result = json.loads((output / "result.json").read_text())
    numbers = {key: value for key, value in result.items() if "per_second" not in key}
    bits = {}
    for path in sorted((output / "statistics").glob("*.npz")):
        with np.load(path) as arrays:
            for name in arrays.files:
                bits[f"{path.stem} {name}"] = _digest(arrays[name])
    with h5py.File(output / "attribute_vectors.h5") as file:
        for name in ("latent_vars", "attributes", "attribute_vectors", "standard_errors", "valid"):
            bits[name] = _digest(file[name][:])
            values = np.nan_to_num(np.asarray(file[name][:], np.float64))
            numbers[f"{name} length"] = float(np.sqrt(np.square(values).sum()))
    return {"numbers": numbers, "bits": bits}


def _picture(path: Path) -> dict[str, Any]:
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    numbers = {"mean": float(pixels.mean()), "deviation": float(pixels.std())}
    return {"numbers": numbers, "bits": {"pixels": _digest(pixels)}}


def _digest(array: np.ndarray) -> str:
    whole = np.ascontiguousarray(array)
    return hashlib.sha256(f"{whole.dtype.str} {whole.shape}".encode() + whole.tobytes()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def processor() -> str:
    """Names the processor's kind: its model and its instructions, which decide the bits."""
    wanted = ("vendor_id", "cpu family", "model", "flags", "CPU part", "Features")
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    kept = [line for line in lines if line.partition("\t")[0].partition(":")[0].strip() in wanted]
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{capability} {hashlib.sha256(chr(10).join(kept).encode()).hexdigest()[:16]}"


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What differs: bits on the same processor and torch, else numbers beyond rounding."""
    same = all(expected[key] == found[key] for key in ("processor", "torch"))
    lines = []
    for part, trace in expected["traces"].items():
        other = found["traces"].get(part, {"numbers": {}, "bits": {}})
        if same:
            lines += [
                f"{part}: other bits of {name}"
                for name, digest in trace["bits"].items()
                if other["bits"].get(name) != digest
            ]
        for name, value in trace["numbers"].items():
            tolerance = 0.0 if same else TOLERANCE * max(abs(value), 1.0)
            seen = other["numbers"].get(name, ABSENT)
            if not (abs(seen - value) <= tolerance or (seen != seen and value != value)):
                lines.append(f"{part}: {name} is {seen}, expected {value}")
    return lines


if __name__ == "__main__":
    action, file = sys.argv[1:]
    with tempfile.TemporaryDirectory() as temporary:
        traces = run(Path(temporary))
    if action == "write":
        Path(file).write_text(json.dumps(traces, indent=1, sort_keys=True) + "\n")
    else:
        problems = differences(json.loads(Path(file).read_text()), traces)
        print("\n".join(problems) or f"the traces agree ({traces['processor']})")
        sys.exit(bool(problems))
