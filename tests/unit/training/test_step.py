"""One step: the same gradients on any number of workers, schedules, averages, exact resume."""

import copy

import numpy as np
import pytest
import torch

from facevae.config import LossConfig, ModelConfig, TrainingConfig
from facevae.data.rank import rank_slice
from facevae.models import build_vae
from facevae.perceptual.network import build_perceptual_network
from facevae.pixels import denormalise, model_input
from facevae.training.step import Criterion, Rank, Trainer, learning_rate, step_noise

CPU = torch.device("cpu")
LOSS = LossConfig(layers=("conv1", "conv2"), beta=1 / 128)
NETWORK = build_perceptual_network(LOSS)


def faces(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8, generator=generator)


def trainer(rank: Rank = Rank(0, 1), loss: LossConfig = LOSS, **training) -> Trainer:  # noqa: B008
    config = TrainingConfig(**({"steps": 10, "global_batch_size": 8} | training))
    torch.manual_seed(0)
    vae = build_vae(ModelConfig(latent_size=8))
    network = None if loss.reconstruction == "pixel" else NETWORK
    return Trainer(vae, Criterion(loss, network), config, CPU, rank)


def gradients(learner: Trainer, images: torch.Tensor) -> list[torch.Tensor]:
    learner.vae.eval()  # batch statistics are the one thing that depends on the share
    (learner.loss(images, step=3).total * learner.weight).backward()
    return [p.grad for p in learner.vae.parameters() if p.grad is not None]


@pytest.mark.parametrize(("batch", "ranks"), [(128, 2), (16, 3), (7, 3), (5, 5)])
def test_the_mean_gradient_of_any_number_of_workers_is_that_of_one(batch, ranks):
    """DDP takes the plain mean over ranks, though their shares differ."""
    images = faces(batch)
    whole = gradients(trainer(global_batch_size=batch), images)
    shares = [
        gradients(trainer(Rank(r, ranks), global_batch_size=batch), images[mine])
        for r in range(ranks)
        if (mine := rank_slice(batch, r, ranks))
    ]
    for one, *parts in zip(whole, *shares, strict=True):
        scale = one.abs().max()
        mean = torch.stack(parts).mean(dim=0)
        torch.testing.assert_close(mean / scale, one / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("batch", "ranks"), [(128, 2), (7, 3)])
def test_a_step_of_many_workers_leaves_the_weights_of_one(batch, ranks):
    images = faces(batch)
    whole = trainer(global_batch_size=batch)
    frozen_statistics(whole)(images, 1)
    learners = [trainer(Rank(r, ranks), global_batch_size=batch) for r in range(ranks)]
    means = average_of_backward(learners, images)
    for parameter, mean in zip(learners[0].vae.parameters(), means, strict=True):
        parameter.grad = mean
    learners[0].optimizer.step()
    pairs = zip(whole.vae.parameters(), learners[0].vae.parameters(), means, strict=True)
    for one, many, gradient in pairs:
        if gradient is not None:  # Adam's first step is the sign of what is not rounding
            clear = gradient.abs() > 1e-4 * gradient.abs().max()
            torch.testing.assert_close(many[clear], one[clear], rtol=0, atol=1e-6)


def frozen_statistics(learner: Trainer) -> Trainer:
    """Batch norm by its running statistics, since those of the batch depend on the share."""
    learner.vae.eval()
    return learner


def average_of_backward(learners: list[Trainer], images: torch.Tensor) -> list[torch.Tensor | None]:
    """What DDP leaves of the gradients of a step: their mean over ranks."""
    steps = []
    for learner in learners:
        mine = rank_slice(len(images), *learner.rank)
        frozen_statistics(learner).optimizer.step = lambda: None
        learner(images[mine], 1)
        steps.append([parameter.grad for parameter in learner.vae.parameters()])
        del learner.optimizer.step
    return [
        None if grads[0] is None else torch.stack(grads).mean(dim=0)
        for grads in zip(*steps, strict=True)
    ]


def test_the_draws_of_a_step_are_slices_of_the_global_ones():
    whole = step_noise(5, 7, 12, 0, 1, 4)
    for ranks in (3, 5):
        parts = [step_noise(5, 7, 12, rank, ranks, 4) for rank in range(ranks)]
        assert torch.equal(torch.cat([part.noise for part in parts]), whole.noise)
        assert torch.equal(torch.cat([part.flip for part in parts]), whole.flip)
    assert not torch.equal(step_noise(5, 8, 12, 0, 1, 4).noise, whole.noise)
    assert not torch.equal(step_noise(6, 7, 12, 0, 1, 4).noise, whole.noise)


def test_learning_rates():
    flat = TrainingConfig(steps=100, learning_rate=0.1)
    assert {learning_rate(flat, step) for step in range(1, 101)} == {0.1}
    stairs = flat.model_copy(update={"decay_steps": 10, "decay_factor": 0.5})
    assert [learning_rate(stairs, s) for s in (1, 10, 11, 21)] == pytest.approx(
        [0.1, 0.1, 0.05, 0.025]
    )
    cosine = flat.model_copy(update={"schedule": "cosine", "warmup_steps": 20})
    assert learning_rate(cosine, 10) == pytest.approx(0.05)
    assert learning_rate(cosine, 20) == pytest.approx(0.1)
    assert learning_rate(cosine, 60) == pytest.approx(0.05)
    assert learning_rate(cosine, 100) == pytest.approx(0, abs=1e-12)


def test_the_average_follows_weights_and_running_statistics():
    learner = trainer(ema_decay=0.75)
    expected: dict[str, torch.Tensor] = {}
    for step in range(1, 4):
        learner(faces(8), step)
        now = copy.deepcopy(learner.vae.state_dict())
        expected = {n: 0.75 * expected[n] + 0.25 * w if expected else w for n, w in now.items()}
    assert learner.model is not learner.vae
    for name, value in learner.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])


def test_clipping_scales_the_gradient_to_the_norm():
    free, clipped = trainer(), trainer(gradient_clip_norm=0.5)
    for learner in (free, clipped):
        learner(faces(8), 1)
    before, after = (
        torch.cat([p.grad.flatten() for p in each.vae.parameters() if p.grad is not None])
        for each in (free, clipped)
    )
    assert before.norm() > 1
    torch.testing.assert_close(after, before * (0.5 / before.norm()))


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_restored_trainer_takes_the_same_step_bit_for_bit(ema_decay):
    first = trainer(ema_decay=ema_decay)
    for step in (1, 2):
        first(faces(8), step)
    state = copy.deepcopy(first.state(2, [], []))
    first(faces(8), 3)
    second = trainer(ema_decay=ema_decay)
    second.restore(state)
    second(faces(8), 3)
    for name, weights in first.state(3, [], []).weights.items():
        assert torch.equal(weights, second.vae.state_dict()[name]), name
    for name, weights in first.model.state_dict().items():
        assert torch.equal(weights, second.model.state_dict()[name]), name


def test_layer_weights_scale_their_layers():
    images = faces(4)
    plain = trainer(global_batch_size=4).loss(images, 1)
    weighted = LOSS.model_copy(update={"layer_weights": (0.5, 3.0)})
    terms = trainer(loss=weighted, global_batch_size=4).loss(images, 1)
    expected = plain.by_layer @ torch.tensor([0.5, 3.0])
    torch.testing.assert_close(terms.reconstruction, expected)


def test_the_error_of_pixels_is_added_to_that_of_features_with_its_weight():
    config = LOSS.model_copy(update={"pixel_weight": 0.25})
    vae = build_vae(ModelConfig(latent_size=8))
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    result = vae(model_input(pixels, 64, vae.resize_method), torch.zeros(3, 8))
    both = Criterion(config, NETWORK)(vae, result, pixels)
    features = Criterion(LOSS, NETWORK)(vae, result, pixels)
    plain = Criterion(LossConfig(reconstruction="pixel"), None)(vae, result, pixels)
    assert Criterion(config, NETWORK).layers == (*NETWORK.layers, "pixels")
    expected = features.reconstruction + 0.25 * plain.reconstruction
    torch.testing.assert_close(both.reconstruction, expected)
    torch.testing.assert_close(both.by_layer[:, -1], plain.reconstruction)
    (gradient,) = torch.autograd.grad(both.total, result.images, retain_graph=True)
    parts = [
        torch.autograd.grad(each.reconstruction.mean(), result.images, retain_graph=True)[0]
        for each in (features, plain)
    ]
    weight = LOSS.beta * 128
    torch.testing.assert_close(gradient, weight * (parts[0] + 0.25 * parts[1]))


def test_the_pixel_loss_is_the_squared_difference_in_0_to_255():
    loss = LossConfig(reconstruction="pixel")
    learner = trainer(loss=loss, global_batch_size=4)
    images = faces(4)
    terms = learner.loss(images, 1)
    noise = step_noise(learner.config.seed, 1, 4, 0, 1, 8).noise
    drawn = denormalise(learner.vae(model_input(images, 64, "antialias"), noise).images)
    target = images.permute(0, 3, 1, 2).double().numpy()
    expected = ((drawn.detach().double().numpy() - target) ** 2).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(terms.reconstruction.detach(), expected, rtol=1e-4)


def test_flipping_mirrors_what_the_draw_says():
    images = faces(8)
    learner = trainer(horizontal_flip=True)
    flip = step_noise(learner.config.seed, 1, 8, 0, 1, 8).flip
    assert 0 < flip.sum() < 8
    mirrored = torch.where(flip[:, None, None, None], images.flip(2), images)
    torch.testing.assert_close(
        learner.loss(images, 1).reconstruction, trainer().loss(mirrored, 1).reconstruction
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_lowers_the_loss(precision):
    # Small, since bf16 is emulated on many a processor.
    learner = trainer(precision=precision, learning_rate=1e-3, global_batch_size=2)
    images = faces(1).expand(2, -1, -1, -1).contiguous()
    totals = [float(learner(images, step).total) for step in range(1, 16)]
    assert totals[-1] < 0.8 * totals[0]
