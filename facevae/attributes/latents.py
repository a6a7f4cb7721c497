"""Latents of stored pixels, and their Parquet table.

Legend: n images, B images in a batch, D stored image size, Z latent size, A attributes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float32, UInt8

from facevae.attributes.vectors import LatentBatch
from facevae.data.shard_files import Manifest, matrix, read_columns, values
from facevae.errors import refuse_damaged
from facevae.models import VAE
from facevae.models.transfer import to_device
from facevae.pixels import model_input
from facevae.runs import storage

LATENTS = "latents"
_COLUMNS = ("image_id", "split", "latent", "attributes")


class Posteriors(NamedTuple):
    """Mean and variance of each image's posterior."""

    mean: Float32[np.ndarray, "n Z"]
    variance: Float32[np.ndarray, "n Z"]


@torch.inference_mode()
def encode_pixels(
    vae: VAE,
    stored: UInt8[np.ndarray, "n D D 3"],
    batch_size: int,
    precision: str = "fp32",
) -> Posteriors:
    """The posteriors of stored pixels, on the device of the VAE, which must be in eval mode.

    The last batch is filled up: kernels choose their order of summation by the batch's shape, and
    with one shape only an image has the same latent, bit for bit, in whatever batch it comes.
    The host waits for a GPU once, at the end.
    """
    assert not vae.training, "batch norm must use its running statistics"
    device = next(vae.parameters()).device
    means, variances = [], []
    for start in range(0, len(stored), batch_size):
        batch = stored[start : start + batch_size]
        filled = np.zeros((batch_size, *stored.shape[1:]), np.uint8)
        filled[: len(batch)] = batch
        images = to_device(torch.from_numpy(filled), device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            posterior = vae.encode(model_input(images, vae.image_size, vae.resize_method))
        means.append(posterior.mean[: len(batch)].float())
        variances.append(posterior.log_variance[: len(batch)].float().exp())
    return Posteriors(torch.cat(means).cpu().numpy(), torch.cat(variances).cpu().numpy())


def latents_uri(folder: str, shard: str) -> str:
    """Where the latents of a shard lie."""
    return storage.join(folder, LATENTS, f"{shard}.parquet")


def write_latents(folder: str, shard: str, batch: LatentBatch) -> None:
    """Write a shard's rows `image_id`, `split`, `latent` f32 [Z] and `attributes` int8 [A]."""
    latents = batch.latents.astype(np.float32)
    columns = {
        "image_id": pa.array(batch.image_id, pa.string()),
        "split": pa.array(batch.split, pa.string()),
        "latent": pa.FixedSizeListArray.from_arrays(latents.reshape(-1), latents.shape[1]),
        "attributes": pa.FixedSizeListArray.from_arrays(
            pa.array(batch.attributes.reshape(-1)), batch.attributes.shape[1]
        ),
    }
    with storage.atomic_file(latents_uri(folder, shard)) as path:
        pq.write_table(pa.table(columns), path, compression="none", write_page_checksum=True)


def read_latent_ids(folder: str, shard: str) -> list[str]:
    """The names of the images of a shard's latents.

    Raises:
        UserError: the file is missing or damaged.
    """
    uri = latents_uri(folder, shard)
    with refuse_damaged(
        f"damaged latents {uri}",
        "copy them again",
        missing=f"no latents of shard {shard} in {folder}: choose one of its folder {LATENTS}",
    ):
        (ids,) = read_columns(uri, ("image_id",))
        return values(ids, pa.string())


def read_latents(folder: str, manifest: Manifest) -> Iterator[LatentBatch]:
    """All rows, a shard at a time, in shard order.

    Raises:
        UserError: a file is missing or damaged.
    """
    for shard in manifest.shards:
        uri = latents_uri(folder, shard.name)
        with refuse_damaged(
            f"damaged latents {uri}", "remove that file, and the same command makes it again"
        ):
            ids, splits, latents, attributes = read_columns(uri, _COLUMNS)
            batch = LatentBatch(
                values(ids, pa.string()),
                values(splits, pa.string()),
                matrix(latents, pa.float32()),
                matrix(attributes, pa.int8()),
            )
        yield batch
