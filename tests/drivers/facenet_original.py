"""The original's VAEs in TensorFlow, saved as it saved them; then commands, in the same process.

Usage: facenet_original.py FOLDER. For each model FOLDER/<model> gets model.ckpt-50000 and
`expected.npz`, what TensorFlow computes with its variables. Then each line of FOLDER/commands.json
(a list of words) is run, and FOLDER/results.json tells their exit codes and what they printed.

The layers are written from the original's description of each model, by plain operations:
`src/generative/models/*.py`, slim's `conv2d`, `fully_connected`, `batch_norm`, `flatten`, `repeat`.
"""

import contextlib
import io
import json
import os
import shutil
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1
MEAN = np.array([134.10714722, 102.52040863, 87.15436554], np.float32)
DEVIATION = np.sqrt(np.array([3941.30175781, 2856.94287109, 2519.35791016])).astype(np.float32)
LATENT_SIZES = {"dfc_vae": 100, "dfc_vae_resnet": 16, "dfc_vae_large": 24}
IMAGES = 3


def resized(images: tf.Tensor, size: int) -> tf.Tensor:
    """TensorFlow 1's `tf.image.resize_images`."""
    return tf1.image.resize_bilinear(
        images, (size, size), align_corners=False, half_pixel_centers=False
    )


class Original:
    """A VAE whose variables are made as its layers are first computed.

    Moving statistics are those of the first batch, moved at random: values then stay in the range
    of a trained model's.
    """

    def __init__(self, name: str, latent_size: int, seed: int) -> None:
        self.name, self.latent_size = name, latent_size
        self.size = 128 if name == "dfc_vae_large" else 64
        self.random = np.random.default_rng(seed)
        self.variables: dict[str, np.ndarray] = {}

    def weights(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A normal distribution of deviation 0.1, cut at two deviations."""
        values = self.random.normal(size=shape)
        while (outside := np.abs(values) > 2).any():
            values[outside] = self.random.normal(size=outside.sum())
        return self.variable(name, 0.1 * values)

    def variable(self, name: str, values: np.ndarray) -> np.ndarray:
        self.variables[name] = np.asarray(values, np.float32)
        return self.variables[name]

    def conv(self, net, channels, kernel, stride, scope, is_active=True):
        net = tf.nn.conv2d(
            net,
            self.weights(f"{scope}/weights", (kernel, kernel, net.shape[-1], channels)),
            strides=stride,
            padding="SAME",
        )
        mean, variance = (m.numpy() for m in tf.nn.moments(net, axes=(0, 1, 2)))
        shift = self.random.normal(0, 0.3, channels) * np.sqrt(variance)
        stretch = self.random.uniform(0.5, 2, channels)
        norm = f"{scope}/BatchNorm"
        mean = self.variable(f"{norm}/moving_mean", mean + shift)
        variance = self.variable(f"{norm}/moving_variance", variance * stretch)
        beta = self.variable(f"{norm}/beta", self.random.normal(0, 0.2, channels))
        net = tf.nn.batch_normalization(net, mean, variance, beta, None, 0.001)
        return tf.maximum(0.1 * net, net) if is_active else net

    def repeated(self, net, channels, kernel, scope):
        name = scope.split("/")[-1]
        for i in (1, 2, 3):
            net = net + 0.1 * self.conv(net, channels, kernel, 1, f"{scope}/{name}_{i}")
        return net

    def connected(self, net, size, scope):
        weights = self.weights(f"{scope}/weights", (net.shape[-1], size))
        biases = self.variable(f"{scope}/biases", self.random.normal(0, 0.1, size))
        return net @ weights + biases

    def encoder(self, net):
        widths = (32, 64, 128, 256, 512)[: 5 if self.name == "dfc_vae_large" else 4]
        for number, width in enumerate(widths, 1):
            scope = f"encoder/Conv2d_{number}"
            if self.name == "dfc_vae_resnet":
                net = self.conv(net, width, 4, 2, f"{scope}a")
                net = self.repeated(net, width, 4, f"{scope}b")
            else:
                net = self.conv(net, width, 4, 2, scope)
        net = tf.reshape(net, (net.shape[0], -1))
        return [self.connected(net, self.latent_size, f"encoder/Fc_{i}") for i in (1, 2)]

    def decoder(self, net):
        net = tf.reshape(self.connected(net, 4096, "decoder/Fc_1"), (-1, 4, 4, 256))
        widths = (128, 64, 32, 3, 3)[: 5 if self.name == "dfc_vae_large" else 4]
        for number, width in enumerate(widths, 1):
            size, scope = 4 * 2**number, f"decoder/Conv2d_{number}"
            net = tf1.image.resize_nearest_neighbor(net, (size, size))
            if self.name == "dfc_vae_resnet":
                net = self.conv(net, width, 3, 1, f"{scope}a")
                net = self.repeated(net, width, 3, f"{scope}b")
            else:
                net = self.conv(net, width, 3, 1, scope, is_active=number < len(widths))
        if self.name == "dfc_vae_resnet":
            net = self.conv(net, 3, 3, 1, "decoder/Conv2d_4c", is_active=False)
        return net

    def expected(self) -> dict[str, np.ndarray]:
        """What goes in and what comes out, with the variables that this makes."""
        coarse = self.random.uniform(0, 255, (IMAGES, 10, 10, 3))  # faces are smooth too
        noise = self.random.normal(0, 12, (IMAGES, 160, 160, 3))
        smooth = tf.image.resize(coarse, (160, 160), "bicubic").numpy()
        images = np.clip(smooth + noise, 0, 255).astype(np.uint8)
        read = resized((images.astype(np.float32) - MEAN) / DEVIATION, self.size)
        mean, log_variance = self.encoder(read)
        latents = self.random.normal(size=(IMAGES, self.latent_size)).astype(np.float32)
        decoded = self.decoder(tf.constant(latents))
        tensors = {
            "read": read,
            "mean": mean,
            "log_variance": log_variance,
            "decoded": decoded,
            "seen": resized(decoded, 160),  # what the face network is given
        }
        return {"images": images, "latents": latents} | {k: v.numpy() for k, v in tensors.items()}


def save(path: Path, variables: dict[str, np.ndarray], version: int = tf1.train.SaverDef.V2) -> str:
    """Write a checkpoint as `train_vae.py` does; returns its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf1.Graph().as_default(), tf1.Session() as session:
        every = [tf1.get_variable(name, initializer=v) for name, v in variables.items()]
        saver = tf1.train.Saver(every, max_to_keep=3, write_version=version)
        session.run(tf1.global_variables_initializer())
        return saver.save(session, str(path), global_step=50000, write_meta_graph=False)


def inception() -> dict[str, np.ndarray]:
    """Some of the face network's variables, which the original's checkpoints hold too."""
    scope = "InceptionResnetV1/Conv2d_1a_3x3"
    return {
        f"{scope}/weights": np.ones((3, 3, 3, 32), np.float32),
        **{
            f"{scope}/BatchNorm/{name}": np.ones(32, np.float32) for name in ("beta", "moving_mean")
        },
    }


def write_damaged(folder: Path, variables: dict[str, np.ndarray]) -> None:
    """Checkpoints that are not to be imported."""
    first = "encoder/Conv2d_1/weights"
    save(folder / "facenet" / "model.ckpt", inception())
    save(folder / "diverged" / "model.ckpt", variables | {first: variables[first] * np.nan})
    for name in ("flipped", "cut"):
        shutil.copytree(folder / "dfc_vae", folder / name)
    flipped = folder / "flipped" / "model.ckpt-50000.data-00000-of-00001"
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    cut = folder / "cut" / "model.ckpt-50000.index"
    cut.write_bytes(cut.read_bytes()[:100])
    (folder / "text").mkdir()
    (folder / "text" / "model.ckpt-50000").write_text("a checkpoint of something else")


def run(words: list[str]) -> dict[str, object]:
    """What a command ends with."""
    from facevae.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    for index, (name, latent_size) in enumerate(LATENT_SIZES.items()):
        original = Original(name, latent_size, seed=index)
        values = original.expected()
        save(place / name / "model.ckpt", original.variables | inception())
        np.savez(place / name / "expected.npz", **values)
        if name == "dfc_vae":
            save(place / "v1" / "model.ckpt", original.variables, tf1.train.SaverDef.V1)
            write_damaged(place, original.variables)
    results = [run(words) for words in json.loads((place / "commands.json").read_text())]
    (place / "results.json").write_text(json.dumps(results))
