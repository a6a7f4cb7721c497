"""The original's VAEs as variables of TensorFlow: their names and shapes, and what they are here.

`src/generative/models/dfc_vae.py`, `dfc_vae_resnet.py` and `dfc_vae_large.py` write the scopes
`encoder` and `decoder`. A convolution has `weights` [h,w,I,O], `BatchNorm/beta`, and the moving
mean and variance; no gamma, which is one. A fully connected layer has `weights` [I,O] and `biases`.
Both programs flatten feature maps height, width, channel, so that none of its rows moves.
"""

import re
from collections.abc import Mapping
from typing import get_args

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from facevae.config import FacenetModelName, ModelConfig
from facevae.errors import UserError
from facevae.models import VAE, build_vae

LATENT = "encoder/Fc_1/biases"
"""the variable that has the latent size for its shape, in every model"""
FULLY_CONNECTED = {
    "encoder/Fc_1": "mean",
    "encoder/Fc_2": "log_variance",
    "decoder/Fc_1": "expand",
}
_OF_A_VAE = re.compile(r"(encoder|decoder)/.*(?<!/Adam)(?<!/Adam_1)")
_NAMED = 3
"""how many of the variables that do not fit a line names"""
Shapes = Mapping[str, tuple[int, ...]]


def variable_names(vae: VAE) -> dict[str, str]:
    """The entries of a faithful VAE's state that the original saved, by its names of them.

    What is left of the state is gamma, and torch's counts of batches.
    """
    names = {}
    for part in ("encoder", "decoder"):
        layers = list(getattr(vae, part).named_modules())
        convolutions = [name for name, layer in layers if isinstance(layer, nn.Conv2d)]
        norms = [name for name, layer in layers if isinstance(layer, nn.BatchNorm2d)]
        for scope, convolution, norm in zip(
            _scopes(vae.name, part), convolutions, norms, strict=True
        ):
            names[f"{part}/{scope}/weights"] = f"{part}.{convolution}.weight"
            names[f"{part}/{scope}/BatchNorm/beta"] = f"{part}.{norm}.bias"
            names[f"{part}/{scope}/BatchNorm/moving_mean"] = f"{part}.{norm}.running_mean"
            names[f"{part}/{scope}/BatchNorm/moving_variance"] = f"{part}.{norm}.running_var"
    for scope, layer in FULLY_CONNECTED.items():
        names |= {f"{scope}/weights": f"{layer}.weight", f"{scope}/biases": f"{layer}.bias"}
    return names


def _scopes(model: str, part: str) -> list[str]:
    """The scopes of a part's convolutions, in the order of the layers."""
    if model != "dfc_vae_resnet":
        return [f"Conv2d_{stage}" for stage in range(1, 6 if model == "dfc_vae_large" else 5)]
    scopes = []
    for stage in range(1, 5):
        repeated = f"Conv2d_{stage}b"  # slim.repeat numbers its layers below their own scope
        scopes += [f"Conv2d_{stage}a", *(f"{repeated}/{repeated}_{i}" for i in (1, 2, 3))]
    return scopes + (["Conv2d_4c"] if part == "decoder" else [])


def variable_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of the original's variables, by name."""
    vae = _without_weights(config)
    ours = {name: tensor.shape for name, tensor in vae.state_dict().items()}
    return {
        theirs: tuple(ours[name][axis] for axis in _to_original(len(ours[name])))
        for theirs, name in variable_names(vae).items()
    }


def find_model(shapes: Shapes, wanted: FacenetModelName | None, where: str) -> ModelConfig:
    """The model whose variables these are; other networks' variables and Adam's do not count.

    Args:
        shapes: of the variables of a checkpoint, by name.
        wanted: the model that it should be; none: any of the original's.
        where: the checkpoint, for messages.

    Raises:
        UserError: it is another model, or none of the original's; says which, or what is amiss.
    """
    if len(shapes.get(LATENT, ())) != 1:
        raise UserError(
            f"{where} holds no VAE of the original: no vector {LATENT} is among its {len(shapes)} "
            "variables; give the model.ckpt that its train_vae.py wrote"
        )
    models = _models(shapes[LATENT][0], where)
    amiss = {name: _differences(shapes, variable_shapes(each)) for name, each in models.items()}
    fitting = next((name for name, lines in amiss.items() if not lines), None)
    if fitting is None:
        nearest = min(amiss, key=lambda name: (name != wanted, len(amiss[name])))
        lines = amiss[nearest]
        more = f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
        raise UserError(
            f"{where} is no {nearest} of the original: {', '.join(lines[:_NAMED])}{more}; give the "
            "model.ckpt that its train_vae.py wrote"
        )
    if wanted not in (None, fitting):
        raise UserError(f"{where} is a {fitting}, not a {wanted}: give --model {fitting}")
    return models[fitting]


def _models(latent_size: int, where: str) -> dict[str, ModelConfig]:
    """The original's models of a latent size, by name."""
    try:
        return {
            name: ModelConfig(name=name, latent_size=latent_size, form="faithful")
            for name in get_args(FacenetModelName)
        }
    except ValidationError as error:
        raise UserError(f"{where} has latents of size {latent_size}: expected 1 to 4096") from error


def _differences(found: Shapes, expected: Shapes) -> list[str]:
    """What the variables of a VAE are not that they should be."""
    missing = [f"{name} is missing" for name in expected if name not in found]
    others = [
        f"{name} has the shape {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    unknown = [name for name in found if _OF_A_VAE.fullmatch(name) and name not in expected]
    return missing + others + [f"{name} is unknown" for name in sorted(unknown)]


def state_of(
    variables: Mapping[str, np.ndarray], config: ModelConfig, where: str
) -> dict[str, Tensor]:
    """The state of a VAE with the original's variables, float32; gamma is one.

    Args:
        variables: all those of the model, by name.
        config: the model.
        where: the checkpoint, for messages.

    Raises:
        UserError: a value that is not finite, or a variance below zero.
    """
    vae = _without_weights(config)
    left = {  # gamma is one, and no batch was counted
        name: torch.full_like(tensor, name.endswith(".weight"), device="cpu")
        for name, tensor in vae.state_dict().items()
    }
    return left | {
        ours: torch.from_numpy(_converted(variables[theirs], theirs, where))
        for theirs, ours in variable_names(vae).items()
    }


def _converted(variable: np.ndarray, name: str, where: str) -> np.ndarray:
    """The values of a variable in our layout, float32, once they are known to be sound."""
    values = variable.astype(np.float32)
    is_variance = name.endswith("moving_variance")
    if not np.isfinite(values).all() or (is_variance and (values < 0).any()):
        raise UserError(
            f"{name} in {where} holds values that are not finite, or variances below zero: its "
            "training went wrong; give an earlier checkpoint"
        )
    return np.ascontiguousarray(values.transpose(np.argsort(_to_original(values.ndim))))


def _without_weights(config: ModelConfig) -> VAE:
    """The VAE as names and shapes alone."""
    with torch.device("meta"):
        return build_vae(config)


def _to_original(dimensions: int) -> tuple[int, ...]:
    """Which of our dimensions is the original's first, second ...; a vector's stays."""
    return {4: (2, 3, 1, 0), 2: (1, 0)}.get(dimensions, (0,))
