"""Steps, logs, validations and grids on a GPU that is not there: devices, waits and memory."""

import contextlib
import itertools

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)

from facevae import pixels
from facevae.attributes.latents import encode_pixels
from facevae.config import TrainConfig
from facevae.models import build_vae
from facevae.models.transfer import to_device
from facevae.training import loop
from facevae.training.build import build_trainer
from tests.fake_gpu import GPU, Watch, fake_gpu, fake_images, walk

BATCH, STORED = 4, 160
WIKI = {
    "network": "inception_resnet_v1",
    "layers": ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"),
    "weights": "unread.pt",
}
LOSSES = {
    "facenet": WIKI,
    "onet": {"layers": ("conv1", "conv3"), "layer_weights": (0.5, 2.0)},
    "onet+pixels": {"pixel_weight": 0.1},
    "pixel": {"reconstruction": "pixel"},
}
MODELS = [
    *((name, "default") for name in ("dfc_vae", "dfc_vae_resnet", "dfc_vae_large")),
    ("dfc_vae_large_v2", "default"),
    ("dfc_vae", "faithful"),
]
OPTIONS = {
    "ema": {"ema_decay": 0.9},
    "clipping": {"gradient_clip_norm": 1.0},
    "flips": {"horizontal_flip": True},
    "sync_batch_norm": {"sync_batch_norm": True},
    "cosine": {"schedule": "cosine", "warmup_steps": 2},
    "staircase": {"decay_steps": 1, "decay_factor": 0.5},
}
ALL_OPTIONS = OPTIONS["ema"] | OPTIONS["clipping"] | OPTIONS["flips"] | OPTIONS["cosine"]
PRECISIONS = ("fp32", "bf16")


def config(loss="onet", model="dfc_vae", form="default", **training) -> TrainConfig:
    return TrainConfig(
        model={"name": model, "form": form, "latent_size": 8},
        loss=LOSSES[loss],
        training={"steps": 5, "global_batch_size": BATCH, **training},
    )


def check_step(settings: TrainConfig) -> None:
    """A step stays on its device, trains every weight, and no step but the first waits."""
    with fake_gpu():
        trainer = build_trainer(settings, GPU)
        meter = loop._Meter(trainer)
        stored = fake_images(BATCH, STORED)
        meter.add(1, trainer(stored, 1))
        with Watch() as seen:
            terms = trainer(stored, 2)
            meter.add(2, terms)
        assert seen.waits == []
        assert seen.calls["aten::convolution_backward"] > 5  # it was a whole step that was seen
        assert {term.device for term in terms} == {GPU}
        state = trainer.state(2, [], [])
        moments = [m for each in state.optimizer["state"].values() for m in each.values()]
        everything = [*state.weights.values(), *(state.average or {}).values(), *moments]
        assert {tensor.device for tensor in everything} == {GPU}
        trained = [p for p in trainer.vae.parameters() if p.requires_grad]
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in trained)
        assert len(state.optimizer["state"]) == len(trained)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("model", "form"), MODELS)
def test_no_step_of_a_model_waits(model, form, precision):
    check_step(config("pixel", model, form, precision=precision))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_no_step_of_a_loss_waits(loss, precision):
    check_step(config(loss, precision=precision, **ALL_OPTIONS))


@pytest.mark.parametrize("option", OPTIONS)
def test_no_step_with_an_option_waits(option):
    check_step(config("pixel", **OPTIONS[option]))


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "loss", "precision"), [*itertools.product(MODELS, LOSSES, PRECISIONS)], ids=str
)
def test_no_step_of_any_recipe_waits(model, loss, precision):
    check_step(config(loss, *model, precision=precision, **ALL_OPTIONS, sync_batch_norm=True))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_validation_grids_and_logs_come_from_the_device(precision):
    with fake_gpu():
        trainer = build_trainer(config("onet+pixels", precision=precision, ema_decay=0.9), GPU)
        held_out = np.zeros((BATCH + 1, STORED, STORED, 3), np.uint8)
        assert set(loop.validate(trainer, held_out)) > {"validation/psnr"}
        originals, reconstructions = loop.reconstruct(trainer, held_out)
        assert originals.shape == reconstructions.shape == (BATCH + 1, 64, 64, 3)
        meter = loop._Meter(trainer)
        meter.add(1, trainer(fake_images(BATCH, STORED), 1))
        assert meter.of_this_rank() == meter.of_all_ranks()[0]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_encoder_waits_at_the_end_alone(precision):
    with fake_gpu():
        vae = build_vae(TrainConfig().model).eval().to(GPU).to(memory_format=torch.channels_last)
        stored = np.zeros((5, STORED, STORED, 3), np.uint8)
        encode_pixels(vae, stored, 2, precision)
        with Watch() as seen:
            posteriors = encode_pixels(vae, stored, 2, precision)
        assert posteriors.mean.shape == posteriors.variance.shape == (5, 100)
        assert len(seen.waits) == 2  # for the means and the variances of all batches


# --- that the fakes tell the truth


def test_a_tensor_left_on_the_cpu_is_found(monkeypatch):
    monkeypatch.setattr(pixels, "_resize_matrix", lambda side, size, *_: torch.zeros(size, side))
    with fake_gpu(), pytest.raises(RuntimeError, match="device"):
        build_trainer(config("facenet"), GPU)(fake_images(BATCH), 1)


def test_waits_are_found():
    with fake_gpu():
        on_gpu, on_host = torch.zeros(3, device=GPU), torch.zeros(3)
        waiting = {
            "aten::_to_copy": [lambda: on_gpu.cpu(), lambda: on_host.to(GPU),
                               lambda: on_host.to(GPU, non_blocking=True),
                               lambda: torch.tensor([1.0], device=GPU)],
            "aten::copy_": [lambda: on_gpu.copy_(on_host)],
            "aten::_local_scalar_dense": [lambda: float(on_gpu[0])],
            "aten::index": [lambda: on_gpu[on_gpu > 0]],
        }  # fmt: skip
        for name, works in waiting.items():
            for work in works:
                with Watch() as seen, contextlib.suppress(DataDependentOutputException,
                                                          DynamicOutputShapeException):  # fmt: skip
                    work()
                assert seen.waits == [f"{name} at a test"]
        with Watch() as seen:
            to_device(on_host, GPU)
            on_gpu.clone().add_(1.5)
            on_host.clone()
        assert seen.waits == []


@pytest.mark.parametrize("loss", ["onet", "pixel"])
def test_the_engine_of_the_fakes_computes_torchs_gradients(loss):
    trainer = build_trainer(config(loss, **ALL_OPTIONS), torch.device("cpu"))
    stored = torch.randint(0, 256, (BATCH, 64, 64, 3), dtype=torch.uint8)
    trained = [p for p in trainer.vae.parameters() if p.requires_grad]
    expected = torch.autograd.grad(trainer.loss(stored, 1).total, trained)
    total = trainer.loss(stored, 1).total
    found = {id(leaf): gradient for leaf, gradient in walk([total], [torch.ones(())])}
    for parameter, gradient in zip(trained, expected, strict=True):
        scale = gradient.abs().max()
        torch.testing.assert_close(
            found[id(parameter)] / scale, gradient / scale, rtol=0, atol=1e-5
        )
