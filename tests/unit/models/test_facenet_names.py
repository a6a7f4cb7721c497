"""The original's variables: names, layout, and what fits which model."""

from typing import get_args

import numpy as np
import pytest
import torch

from facevae.config import FacenetModelName, ModelConfig
from facevae.errors import UserError
from facevae.models import build_vae
from facevae.models.facenet_names import find_model, state_of, variable_shapes

MODELS = get_args(FacenetModelName)
TRAINED = {"dfc_vae": 2_311_403, "dfc_vae_resnet": 7_072_379, "dfc_vae_large": 5_228_351}
SOME = {
    "dfc_vae": {
        "encoder/Conv2d_1/weights": (4, 4, 3, 32),
        "encoder/Conv2d_4/BatchNorm/moving_variance": (256,),
        "encoder/Fc_2/weights": (4096, 100),
        "decoder/Fc_1/biases": (4096,),
        "decoder/Conv2d_1/weights": (3, 3, 256, 128),
        "decoder/Conv2d_4/BatchNorm/beta": (3,),
    },
    "dfc_vae_large": {
        "encoder/Conv2d_5/weights": (4, 4, 256, 512),
        "encoder/Fc_1/weights": (8192, 100),
        "decoder/Conv2d_4/weights": (3, 3, 32, 3),
        "decoder/Conv2d_5/weights": (3, 3, 3, 3),
    },
    "dfc_vae_resnet": {
        "encoder/Conv2d_3a/weights": (4, 4, 64, 128),
        "encoder/Conv2d_3b/Conv2d_3b_2/BatchNorm/moving_mean": (128,),
        "decoder/Conv2d_4b/Conv2d_4b_3/weights": (3, 3, 3, 3),
        "decoder/Conv2d_4c/BatchNorm/beta": (3,),
    },
}


def faithful(name: str, latent_size: int = 100) -> ModelConfig:
    return ModelConfig(name=name, latent_size=latent_size, form="faithful")


@pytest.mark.parametrize("name", MODELS)
def test_variables_are_the_originals(name):
    shapes = variable_shapes(faithful(name))
    assert SOME[name].items() <= shapes.items()
    trained = [shape for key, shape in shapes.items() if "/moving_" not in key]
    assert sum(int(np.prod(shape)) for shape in trained) == TRAINED[name]
    if name == "dfc_vae":
        assert len(shapes) == 38


@pytest.fixture(params=MODELS)
def model(request) -> ModelConfig:
    return faithful(request.param, 7)


def random_variables(model: ModelConfig) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        key: random.uniform(0.1, 1, shape).astype(np.float32)
        for key, shape in variable_shapes(model).items()
    }


def test_a_vae_takes_the_variables_as_its_state(model):
    variables = random_variables(model)
    state = state_of(variables, model, "here")
    with torch.device("meta"):
        vae = build_vae(model)
    vae.load_state_dict(state, assign=True)
    weights = variables["encoder/Fc_1/weights"]  # [4 * 4 * channels, latents]
    for row, latent in ((0, 0), (1, 6), (len(weights) - 1, 3)):
        assert vae.mean.weight[latent, row] == weights[row, latent]
    first = next(key for key in variables if key.startswith("encoder/Conv2d_1"))
    assert first.endswith("weights")
    convolution = next(vae.encoder.parameters())
    for y, x, inside, out in ((0, 0, 0, 0), (3, 1, 2, 31), (0, 2, 1, 5)):
        assert convolution[out, inside, y, x] == variables[first][y, x, inside, out]
    norms = [m for m in vae.decoder.modules() if hasattr(m, "running_var")]
    key = max(key for key in variables if key.startswith("decoder/") and "moving_var" in key)
    np.testing.assert_array_equal(norms[-1].running_var, variables[key])
    assert all(norm.weight.eq(1).all() and norm.num_batches_tracked == 0 for norm in norms)


@pytest.mark.parametrize("is_wanted", [True, False])
def test_the_model_and_its_latent_size_are_found_by_shapes_alone(model, is_wanted):
    shapes = variable_shapes(model)
    shapes |= {"InceptionResnetV1/Logits/weights": (1792, 9), "beta1_power": ()}
    shapes |= {f"{key}/Adam{end}": shape for key, shape in shapes.items() for end in ("", "_1")}
    assert find_model(shapes, model.name if is_wanted else None, "here") == model


def test_another_model_is_named(model):
    for other in MODELS:
        if other != model.name:
            with pytest.raises(UserError, match=rf"here is a {model.name}, .*--model {model.name}"):
                find_model(variable_shapes(model), other, "here")


@pytest.mark.parametrize("wanted", [None, "dfc_vae"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder/Fc_1/biases": None}, "is no dfc_vae of the original: decoder/Fc_1/biases is mi"),
        (
            {"encoder/Conv2d_2/weights": (5, 5, 32, 64)},
            r"encoder/Conv2d_2/weights has the shape \[5, 5, 32, 64\], expected \[4, 4, 32, 64\]",
        ),
        ({"encoder/Conv2d_2/BatchNorm/gamma": (64,)}, "encoder/Conv2d_2/BatchNorm/gamma is unkn"),
        (
            {f"encoder/Conv2d_{i}/weights": None for i in (1, 2, 3, 4)},
            r"Conv2d_3/weights is missing and 1 more; give the model\.ckpt",
        ),
        ({"encoder/Fc_1/biases": None}, "holds no VAE of the original: no vector encoder/Fc_1/bia"),
        ({"encoder/Fc_1/biases": (9, 9)}, "holds no VAE of the original"),
        ({"encoder/Fc_1/biases": (10**9,)}, "latents of size 1000000000: expected 1 to 4096"),
    ],
)
def test_variables_that_fit_no_model_are_one_line_that_names_some(wanted, changes, message):
    shapes = variable_shapes(faithful("dfc_vae")) | changes
    shapes = {key: shape for key, shape in shapes.items() if shape is not None}
    with pytest.raises(UserError, match=message):
        find_model(shapes, wanted, "here")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("encoder/Fc_2/biases", np.nan),
        ("decoder/Conv2d_1/weights", -np.inf),
        ("encoder/Conv2d_1/BatchNorm/moving_variance", -0.1),
    ],
)
def test_values_that_no_training_ends_with_are_refused(name, value):
    model = faithful("dfc_vae", 3)
    variables = random_variables(model)
    variables[name].flat[-1] = value
    with pytest.raises(UserError, match=f"{name} in here holds values that are not finite"):
        state_of(variables, model, "here")
