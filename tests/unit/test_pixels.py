import numpy as np
import pytest
import torch
from PIL import Image

from facevae.errors import UserError
from facevae.pixels import (
    crop_and_resize,
    denormalise,
    model_input,
    normalise,
    resize,
    to_float,
    to_pixels,
)


def _pixels(batch: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, generator=generator)


def _tf1_slowly(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes [H,W,3] pixel by pixel, as TensorFlow 1 describes it."""
    height, width, _ = image.shape
    result = np.empty((size, size, 3))
    for row in range(size):
        for column in range(size):
            y, x = row * height / size, column * width / size
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            dy, dx = y - top, x - left
            upper = image[top, left] * (1 - dx) + image[top, right] * dx
            lower = image[bottom, left] * (1 - dx) + image[bottom, right] * dx
            result[row, column] = upper * (1 - dy) + lower * dy
    return result


@pytest.mark.parametrize("size", [64, 128])
def test_every_pixel_survives_model_input_and_back(size: int) -> None:
    pixels = _pixels(3, size, size)
    for method in ("antialias", "tf1"):
        assert torch.equal(to_pixels(model_input(pixels, size, method)), pixels)


def test_normalised_training_mean_and_deviation_are_zero_and_one() -> None:
    mean = torch.tensor([134.107, 102.520, 87.154]).view(1, 3, 1, 1)
    deviation = torch.tensor([3941.30, 2856.94, 2519.36]).sqrt().view(1, 3, 1, 1)
    assert normalise(mean).abs().max() < 1e-4
    assert torch.allclose(normalise(mean + deviation), torch.ones(1, 3, 1, 1), atol=1e-4)
    assert torch.allclose(denormalise(normalise(mean)), mean)


def test_to_pixels_clips_and_rounds() -> None:
    wanted = torch.tensor([-7.0, 300.0, 99.6]).view(1, 3, 1, 1)
    assert to_pixels(normalise(wanted)).flatten().tolist() == [0, 255, 100]


@pytest.mark.parametrize(
    ("height", "width", "size"), [(160, 160, 64), (64, 64, 160), (20, 31, 13), (5, 5, 12)]
)
def test_tf1_resize_is_what_tensorflow_1_describes(height: int, width: int, size: int) -> None:
    images = to_float(_pixels(2, height, width))
    resized = resize(images, size, "tf1")
    for image, result in zip(images, resized, strict=True):
        expected = _tf1_slowly(image.permute(1, 2, 0).double().numpy(), size)
        np.testing.assert_allclose(result.permute(1, 2, 0), expected, atol=2e-3)


def test_tf1_resize_up_returns_to_the_places_it_came_from() -> None:
    """160 to 64 samples at 0, 2.5, 5...; 64 to 160 puts every second one back where it was."""
    images = to_float(_pixels(1, 160, 160))
    there_and_back = resize(resize(images, 64, "tf1"), 160, "tf1")
    torch.testing.assert_close(there_and_back[..., ::5, ::5], images[..., ::5, ::5])


def test_antialiased_resize_is_pillows() -> None:
    pixels = _pixels(1, 182, 182)
    expected = Image.fromarray(pixels[0].numpy()).resize((64, 64), Image.Resampling.BILINEAR)
    result = resize(to_float(pixels), 64, "antialias")[0].permute(1, 2, 0)
    assert np.abs(result.numpy() - np.asarray(expected, dtype=np.float32)).max() < 1.5


@pytest.mark.parametrize("method", ["antialias", "tf1"])
@pytest.mark.parametrize("size", [7, 20])
def test_resize_is_linear_and_its_gradient_agrees(method: str, size: int) -> None:
    images = torch.rand(1, 3, 12, 10, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: resize(x, size, method), images)
    assert torch.allclose(resize(images * 0 + 5, size, method), torch.tensor(5.0).double())


def test_resize_returns_images_of_the_right_size_themselves() -> None:
    images = to_float(_pixels(1, 32, 32))
    assert resize(images, 32, "antialias") is images


def test_model_input_resizes_before_or_after_normalising_alike() -> None:
    pixels = _pixels(2, 100, 80)
    for method in ("antialias", "tf1"):
        other_order = resize(normalise(to_float(pixels)), 64, method)
        torch.testing.assert_close(model_input(pixels, 64, method), other_order, atol=1e-4, rtol=0)


def test_crop_takes_the_box_or_the_centred_square() -> None:
    pixels = _pixels(1, 60, 100)[0].numpy()
    image = Image.fromarray(pixels)
    assert np.array_equal(crop_and_resize(image, None, 60), pixels[:, 20:80])
    assert np.array_equal(crop_and_resize(image, (5, 10, 35, 40), 30), pixels[10:40, 5:35])
    clipped = crop_and_resize(image, (80, -50, 120, 20), 20)
    assert np.array_equal(clipped, pixels[0:20, 80:100])


def test_crop_leaves_a_finished_image_alone() -> None:
    image = Image.fromarray(_pixels(1, 64, 64)[0].numpy())
    assert crop_and_resize(image, None, 64) is image


def test_the_originals_crop_of_an_aligned_face_moves_and_changes_no_pixel() -> None:
    """182 to 160 pixels, 11 off each side: `resize_image_with_crop_or_pad`."""
    pixels = _pixels(1, 182, 182)[0].numpy()
    cropped = crop_and_resize(Image.fromarray(pixels), (11, 11, 171, 171), 160)
    assert np.array_equal(cropped, pixels[11:171, 11:171])


def test_crop_shrinks_without_aliasing() -> None:
    stripes = np.zeros((512, 512, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    shrunk = np.asarray(crop_and_resize(Image.fromarray(stripes), None, 64))
    assert np.abs(shrunk.astype(int) - 127).max() <= 3


def test_crop_outside_the_image_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match=r"\(70, 0, 90, 20\).*64x64"):
        crop_and_resize(Image.new("RGB", (64, 64)), (70, 0, 90, 20), 32)
