"""The training loop, free of Ray and MLflow: it is given its batches and told whom to tell.

It runs alike under Ray Train, under torchrun, alone on a GPU and in a unit test. Every rank runs
it; what they report is reduced over all of them, so they always decide alike.
Legend: B images of this rank, D stored image size.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import UInt8
from torch import Tensor

from facevae.errors import UserError
from facevae.losses import kl_divergence
from facevae.models import VAE
from facevae.models.vae import Reconstruction
from facevae.pixels import model_input, resize, to_float, to_pixels
from facevae.training.step import LossTerms, Trainee, learning_rate

Metrics = dict[str, float]
WORKERS = "train/workers"
MAX_PIXEL = 255.0


class Listener(Protocol):
    """Whom the loop tells, on rank 0 only."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Remember the metrics of a step."""

    def show(self, step: int, originals: np.ndarray, reconstructions: np.ndarray) -> None:
        """Remember what faces look like, uint8 [n,S,S,3] each."""

    def save(self, step: int, sums: list[list[float]]) -> None:
        """Keep a checkpoint of the trainee after a step, with what `train` takes as its sums."""

    def wants_checkpoint(self) -> bool:
        """Whether a checkpoint is wanted out of turn, now; asked after every step."""


def train(
    trainee: Trainee,
    batches: Iterator[UInt8[Tensor, "B D D 3"]],
    held_out: UInt8[np.ndarray, "n D D 3"],
    first_step: int,
    listener: Listener,
    sums: Sequence[Sequence[float]] = (),
) -> None:
    """Train from `first_step` (counted from 1) to the last step of the configuration.

    Args:
        trainee: what is trained.
        batches: this rank's stored pixels, one batch a step.
        held_out: validation images, the same on every rank; the first of them fill the grids.
        first_step: the step that the first batch belongs to.
        listener: whom to tell.
        sums: each rank's sums of loss terms since the last logged step, from a checkpoint.

    Raises:
        UserError: a loss term is not finite; on every rank alike.
    """
    config = trainee.config
    meter = _Meter(trainee, sums)
    for step in range(first_step, config.steps + 1):
        with meter.waiting():
            batch = next(batches)
        meter.add(step, trainee(batch, step))

        def due(every: int, step: int = step) -> bool:
            return step % every == 0 or step == config.steps

        if due(config.log_every):
            _log(listener, trainee, step, meter.metrics(step))
        if due(config.validate_every):
            with meter.paused():
                _log(listener, trainee, step, validate(trainee, held_out))
        if due(config.grid_every) and trainee.rank.rank == 0:
            with meter.paused():
                listener.show(step, *reconstruct(trainee, held_out[: config.grid_faces]))
        if due(config.checkpoint_every):
            with meter.paused():
                meter.check_finite()
                _save(listener, trainee, step, meter.of_all_ranks())
        elif trainee.rank.rank == 0 and listener.wants_checkpoint():
            # All ranks hold the same, so the others need not know, and nothing waits for them; only
            # the next logged mean lacks their part of the steps before.
            with meter.paused():
                _save(listener, trainee, step, [meter.of_this_rank()])


def _save(listener: Listener, trainee: Trainee, step: int, sums: list[list[float]]) -> None:
    _check_weights(trainee, step)
    if trainee.rank.rank == 0:
        listener.save(step, sums)


def _log(listener: Listener, trainee: Trainee, step: int, metrics: Metrics) -> None:
    if trainee.rank.rank == 0:
        listener.log(step, metrics)


def _check_weights(trainee: Trainee, step: int) -> None:
    """The last update may break what the loss before it could not show; ranks hold the same."""
    for name, weights in trainee.vae.named_parameters():
        if not torch.isfinite(weights).all():
            raise UserError(
                f"the weights '{name}' are not finite after step {step}: nothing was saved; "
                "lower training.learning_rate or set training.gradient_clip_norm"
            )


@torch.no_grad()
def validate(trainee: Trainee, held_out: UInt8[np.ndarray, "n D D 3"]) -> Metrics:
    """Mean loss terms and signal-to-noise ratio over held-out images, from the posterior mean.

    Each rank takes every R-th image. PSNR is that of the mean squared pixel error, in dB.
    """
    model, criterion = trainee.model.eval(), trainee.criterion
    _share_buffers(model)
    rank, ranks = trainee.rank
    stride = ranks * trainee.batch_size
    sums = torch.zeros(4 + len(criterion.layers), dtype=torch.float64, device=trainee.device)
    for start in range(rank, len(held_out), stride):
        stored = torch.from_numpy(held_out[start : start + stride : ranks])
        stored = stored.to(trainee.device)
        images = model_input(stored, model.image_size, model.resize_method)
        with trainee.autocast():
            posterior = model.encode(images)
            result = Reconstruction(model.decode(posterior.mean), posterior)
            terms = criterion(model, result, stored)
        target = resize(to_float(stored), model.image_size, model.resize_method)
        decoded = to_pixels(result.images).permute(0, 3, 1, 2)
        squared = (decoded.float() - target).square().mean(dim=(1, 2, 3))
        kl = kl_divergence(posterior)
        rows = torch.stack([kl, terms.reconstruction, squared, torch.ones_like(kl)], dim=1)
        sums += torch.cat([rows, terms.by_layer], dim=1).double().sum(dim=0)
    trainee.vae.train()
    sums = _summed(sums)
    kl_mean, reconstruction, squared_mean, _, *layers = (sums / sums[3]).tolist()
    return {
        "validation/loss": trainee.criterion.weigh(kl_mean, reconstruction),
        "validation/kl": kl_mean,
        "validation/reconstruction": reconstruction,
        "validation/psnr": 10 * float(np.log10(MAX_PIXEL**2 / max(squared_mean, 1e-12))),
        **_by_layer("validation", trainee, layers),
    }


def _share_buffers(model: VAE) -> None:
    """Give all ranks the batch-norm statistics of rank 0, whose model is the one that is kept.

    Those of the moving average are else each rank's own.
    """
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


@torch.no_grad()
def reconstruct(
    trainee: Trainee, stored: UInt8[np.ndarray, "n D D 3"]
) -> tuple[UInt8[np.ndarray, "n S S 3"], UInt8[np.ndarray, "n S S 3"]]:
    """Images as the model sees them, and as it reconstructs them from their posterior mean."""
    model = trainee.model.eval()
    images = torch.from_numpy(stored).to(trainee.device)
    images = model_input(images, model.image_size, model.resize_method)
    with trainee.autocast():
        decoded = model.decode(model.encode(images).mean)
    trainee.vae.train()
    return to_pixels(images).cpu().numpy(), to_pixels(decoded).cpu().numpy()


def _by_layer(prefix: str, trainee: Trainee, values: list[float]) -> Metrics:
    pairs = zip(trainee.criterion.layers, values, strict=True)
    return {f"{prefix}/reconstruction/{layer}": value for layer, value in pairs}


def _summed(values: Tensor) -> Tensor:
    """The sum over all ranks."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


class _Meter:
    """Sums of loss terms since the last log, kept on the device so that no step waits for them."""

    def __init__(self, trainee: Trainee, sums: Sequence[Sequence[float]] = ()) -> None:
        """Takes what ranks had summed up before; of another number of ranks, the first has all."""
        self._trainee = trainee
        self._sums = self._zeros(3 + len(trainee.criterion.layers))
        rank, ranks = trainee.rank
        mine = [sums[rank]] if len(sums) == ranks else sums if rank == 0 else []
        for each in mine:
            self._sums += torch.tensor(each, dtype=torch.float64, device=trainee.device)
        self._trained_before = self._sums[2:3].clone()  # images that took none of this time
        self._first_bad = torch.full((2,), torch.inf, dtype=torch.float64, device=trainee.device)
        self._since, self._waited = time.perf_counter(), 0.0

    def _zeros(self, size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.float64, device=self._trainee.device)

    def add(self, step: int, terms: LossTerms) -> None:
        kl = terms.kl
        rows = torch.stack([kl, terms.reconstruction, torch.ones_like(kl)], dim=1)
        sums = torch.cat([rows, terms.by_layer], dim=1).double().sum(dim=0)
        self._sums += sums
        bad = torch.where(torch.isfinite(sums[:2]), torch.inf, float(step))
        self._first_bad = torch.minimum(self._first_bad, bad)

    def of_this_rank(self) -> list[float]:
        values: list[float] = self._sums.tolist()
        return values

    def of_all_ranks(self) -> list[list[float]]:
        every = self._zeros(self._trainee.rank.ranks * len(self._sums)).view(-1, len(self._sums))
        every[self._trainee.rank.rank] = self._sums
        rows: list[list[float]] = _summed(every).tolist()
        return rows

    def check_finite(self) -> None:
        first_bad = self._first_bad.clone()
        if dist.is_initialized():
            dist.all_reduce(first_bad, op=dist.ReduceOp.MIN)
        step, term = min(zip(first_bad.tolist(), ("kl", "reconstruction"), strict=True))
        if step != torch.inf:
            raise UserError(
                f"the loss term '{term}' is not finite at step {int(step)}: training stopped; "
                "lower training.learning_rate or set training.gradient_clip_norm"
            )

    def metrics(self, step: int) -> Metrics:
        self.check_finite()
        sums = _summed(torch.cat([self._sums, self._trained_before]))
        images, before = float(sums[2]), float(sums[-1])
        kl, reconstruction, _, *layers = (sums[:-1] / images).tolist()
        seconds = time.perf_counter() - self._since
        rate, waited = (images - before) / seconds, self._waited / seconds
        self._sums, self._trained_before = self._zeros(len(self._sums)), self._zeros(1)
        self._since, self._waited = time.perf_counter(), 0.0
        return {
            "train/loss": self._trainee.criterion.weigh(kl, reconstruction),
            "train/kl": kl,
            "train/reconstruction": reconstruction,
            "train/learning_rate": learning_rate(self._trainee.config, step),
            "train/images_per_second": rate,
            "train/waiting_for_data": waited,
            WORKERS: float(self._trainee.rank.ranks),
            **_by_layer("train", self._trainee, layers),
        }

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block in which training waits for its images."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block that takes no training time."""
        started = time.perf_counter()
        yield
        self._since += time.perf_counter() - started
