"""Decoding and encoding without Ray, with threads, on the CPUs of one machine.

Each public function returns images per second, and is run in a process of its own.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from facevae.attributes.latents import Posteriors, encode_pixels
from facevae.attributes.statistics import AttributeStatistics
from facevae.config import EncodingConfig
from facevae.data import shard_files
from facevae.data.images import decode_jpegs
from facevae.models import VAE
from facevae.models.checkpoint import load_model
from facevae.models.folding import fold_batch_norms

RESIDENT_SHARDS = 2
"""how many shards the ceilings are measured on"""
PASSES = 4


class Images(NamedTuple):
    """What is encoded: shards by name, a model's folder, settings, and threads."""

    shards: str
    names: list[str]
    model: str
    config: EncodingConfig
    threads: int
    use_gpu: bool


def decoding(images: Images) -> float:
    """JPEGs that are in memory, to pixels: a ceiling of the attribute pass."""
    encoded = [_encoded(images, name) for name in images.names[:RESIDENT_SHARDS]]
    return _rate(images, decode_jpegs, encoded)


def encoding(images: Images) -> float:
    """Pixels that are in memory, to latents: the other ceiling."""
    encode = _encoder(images)
    pixels = [decode_jpegs(_encoded(images, name)) for name in images.names[:RESIDENT_SHARDS]]
    return _rate(images, encode, pixels)


def bare_loop(images: Images) -> float:
    """The plainest good program: threads that read, decode, encode and add up shards."""
    encode = _encoder(images)

    def run(name: str) -> AttributeStatistics:
        rows = shard_files.read_shard(images.shards, name)
        posteriors = encode(decode_jpegs(rows.images))
        return AttributeStatistics.of_batch(*posteriors, rows.attributes)

    with ThreadPoolExecutor(images.threads) as threads:
        list(threads.map(run, images.names[: images.threads]))  # warm-up
        started = time.perf_counter()
        parts = list(threads.map(run, images.names))
        seconds = time.perf_counter() - started
    return sum(part.count for part in parts) / seconds


def _rate(images: Images, work: Callable[[Any], Any], resident: Sequence[Any]) -> float:
    """Rows a second of work on what is in memory, all threads at it."""
    tasks = [*resident] * (PASSES * images.threads)
    with ThreadPoolExecutor(images.threads) as threads:
        list(threads.map(work, resident))
        started = time.perf_counter()
        list(threads.map(work, tasks))
        seconds = time.perf_counter() - started
    return sum(map(len, tasks)) / seconds


def _encoder(images: Images) -> Callable[[Any], Posteriors]:
    torch.set_num_threads(1)  # each thread of ours computes for itself
    config, vae = images.config, _model(images)
    return lambda pixels: encode_pixels(vae, pixels, config.batch_size, config.precision)


def _model(images: Images) -> VAE:
    vae = load_model(Path(images.model)).vae
    fold_batch_norms(vae)
    device = torch.device("cuda" if images.use_gpu else "cpu")
    return vae.to(device).to(memory_format=torch.channels_last)


def _encoded(images: Images, name: str) -> list[bytes]:
    return shard_files.read_images(images.shards, name)
