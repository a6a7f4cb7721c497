"""Batch norm of workers with uneven shares is batch norm of the whole batch."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from facevae.config import ModelConfig
from facevae.models import build_vae, sync_batch_norm
from facevae.models.blocks import batch_norm
from facevae.models.sync_batch_norm import SyncBatchNorm2d, synchronised

CPU = torch.device("cpu")
SHARES = (5, 2, 1)


class Workers:
    """As many threads as there are shares, in the place of torch.distributed."""

    def __init__(self) -> None:
        self._sum: list[Tensor] = []
        self._barrier = threading.Barrier(len(SHARES), timeout=30)

    def is_initialized(self) -> bool:
        return True

    def get_world_size(self) -> int:
        return len(SHARES)

    def all_reduce(self, values: Tensor) -> None:
        self._sum.append(values.clone())
        self._barrier.wait()
        values.copy_(torch.stack(self._sum).sum(dim=0))
        if self._barrier.wait() == 0:
            self._sum.clear()
        self._barrier.wait()


@pytest.fixture
def workers(monkeypatch):
    monkeypatch.setattr(sync_batch_norm, "dist", Workers())


def layer() -> nn.BatchNorm2d:
    made = batch_norm(4, decay=0.9)
    torch.nn.init.normal_(made.bias, generator=torch.Generator().manual_seed(2))
    return made


def faces() -> Tensor:
    """Channels whose mean is much larger than what they vary by."""
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(sum(SHARES), 4, 3, 5, generator=generator)
        + torch.arange(4.0)[:, None, None] * 20
    )


def passed(norm: nn.Module, images: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What comes out, and the gradients of images and bias."""
    images = images.clone().requires_grad_()
    drawn = norm(images)
    (drawn * weights).sum().backward()
    return drawn.detach(), images.grad, norm.bias.grad


def test_uneven_shares_are_normalised_like_the_whole_batch(workers):
    images = faces()
    weights = torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    whole = layer()
    expected = passed(whole, images, weights)
    norms = [SyncBatchNorm2d(layer()) for _ in SHARES]
    with ThreadPoolExecutor(len(SHARES)) as pool:
        parts = [*pool.map(passed, norms, images.split(SHARES), weights.split(SHARES))]
    drawn, gradients, bias_gradients = zip(*parts, strict=True)
    torch.testing.assert_close(torch.cat(drawn), expected[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.cat(gradients), expected[1], rtol=0, atol=1e-4)
    torch.testing.assert_close(sum(bias_gradients), expected[2], rtol=1e-5, atol=1e-5)
    for norm in norms:
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(norm.state_dict()[name], value, rtol=1e-5, atol=1e-5)


def test_without_other_workers_and_in_eval_mode_it_is_torchs_own(workers):
    norm = SyncBatchNorm2d(layer()).eval()
    assert torch.equal(norm(faces()), layer().eval()(faces()))


def test_a_synchronised_vae_has_the_same_weights_by_the_same_names():
    config = ModelConfig(form="faithful", latent_size=8)
    torch.manual_seed(0)
    plain = build_vae(config)
    torch.manual_seed(0)
    vae = synchronised(build_vae(config), CPU)
    assert not [m for m in vae.modules() if type(m) is nn.BatchNorm2d]
    assert [(n, p.requires_grad) for n, p in vae.named_parameters()] == [
        (n, p.requires_grad) for n, p in plain.named_parameters()
    ]
    images, noise = torch.randn(2, 3, 64, 64), torch.randn(2, 8)
    assert torch.equal(vae(images, noise)[0], plain(images, noise)[0])
    plain.load_state_dict(vae.state_dict())
