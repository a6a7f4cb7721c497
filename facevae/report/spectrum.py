"""What a decoder adds to faces that no face has: fine energy, and a mesh of a regular period.

Legend: N images, S pixels per side.
"""

import numpy as np
from jaxtyping import Float, UInt8

PERIODS = (2, 4)
"""pixels between two lines of the mesh that decoders of doubling layers draw"""
BESIDE = 3
"""frequencies between a peak and what it is compared with: the window widens it by one"""


def high_frequencies(pixels: UInt8[np.ndarray, "N S S 3"]) -> float:
    """The mean power of details finer than four pixels, per pixel and channel, in 0..255 squared.

    That of periods of less than four pixels along either axis.
    """
    frequencies = np.abs(np.fft.fftfreq(pixels.shape[1]))
    is_fine = np.maximum(frequencies[:, None], frequencies[None, :]) > 1 / 4
    return float(_power(pixels)[is_fine].sum())


def mesh(pixels: UInt8[np.ndarray, "N S S 3"]) -> float:
    """How far patterns of a period of 2 and 4 pixels stand out of those beside; 1: not at all.

    The mean power where both axes have period 2, 4 or none (but for none along both), over that of
    the frequencies beside (Odena et al., Deconvolution and Checkerboard Artifacts, 2016, tell where
    they come from).
    """
    size = pixels.shape[1]
    assert size % max(PERIODS) == 0
    power = _power(pixels)
    lines = [0, size // 4, size // 2, 3 * size // 4]
    peaks = [(row, column) for row in lines for column in lines if (row, column) != (0, 0)]
    around = [(-BESIDE, -BESIDE), (-BESIDE, BESIDE), (BESIDE, -BESIDE), (BESIDE, BESIDE)]
    beside = [
        power[(row + down) % size, (column + right) % size]
        for row, column in peaks
        for down, right in around
    ]
    return float(np.mean([power[peak] for peak in peaks]) / np.mean(beside))


def _power(pixels: UInt8[np.ndarray, "N S S 3"]) -> Float[np.ndarray, "S S"]:
    """The mean power spectrum of images and channels without their means; the sum is a variance."""
    size = pixels.shape[1]
    window = np.hanning(size + 1)[:size]
    taper = window[:, None] * window[None, :]
    taper /= np.sqrt(np.square(taper).mean())
    values = pixels.astype(np.float64)
    values -= values.mean(axis=(1, 2), keepdims=True)
    spectrum = np.fft.fft2(values * taper[:, :, None], axes=(1, 2))
    return np.asarray(np.square(np.abs(spectrum)).mean(axis=(0, 3)) / size**4)
