"""The group `directions` of an HDF5 file of attribute vectors: what `Directions` holds.

Of it the original's programs know nothing, and older files have none. Every number is a data set
of float64 or int64; a single one is a data set without dimensions.

Legend: Z latent size, A attributes.
"""

from dataclasses import fields

import h5py
import numpy as np

from facevae.attributes.directions import Directions

GROUP = "directions"
_PER_ATTRIBUTE = {"lda_bias", "gap", "variance_inflation"}
_PER_DIMENSION = {"latent_mean", "posterior_variance"}
_INTEGERS = {"rank": int, "folds": int, "folds_by_identity": bool}
_NUMBERS = {"ridge": float, "shrinkage": float, **_INTEGERS}


def write_directions(file: h5py.File, directions: Directions) -> None:
    """Write the group."""
    group = file.create_group(GROUP)
    for field in fields(Directions):
        kind = np.int64 if field.name in _INTEGERS else np.float64
        group.create_dataset(field.name, data=np.asarray(getattr(directions, field.name), kind))


def read_directions(file: h5py.File, attributes: int, latent_size: int) -> Directions | None:
    """What the group holds; none if the file has none.

    Raises:
        ValueError: it holds something else, or says that it is larger than its file.
    """
    if GROUP not in file:
        return None
    group, room = file[GROUP], file.id.get_filesize()
    values = {}
    for field in fields(Directions):
        name, dataset = f"{GROUP}/{field.name}", group.get(field.name)
        if not isinstance(dataset, h5py.Dataset):
            raise ValueError(f"it has no data set {name}")
        shape = _shape(field.name, attributes, latent_size)
        kind = "i" if field.name in _INTEGERS else "f"
        if dataset.shape != shape or dataset.dtype.kind != kind:
            raise ValueError(f"{name} is {dataset.dtype} {dataset.shape}, expected {shape}")
        if dataset.nbytes > room:
            raise ValueError(f"it is far too small for {name}")
        number = _NUMBERS.get(field.name)
        values[field.name] = number(dataset[()]) if number else dataset[()].astype(np.float64)
    return Directions(**values)


def _shape(name: str, attributes: int, latent_size: int) -> tuple[int, ...]:
    if name in _NUMBERS:
        return ()
    if name in _PER_ATTRIBUTE:
        return (attributes,)
    if name in _PER_DIMENSION:
        return (latent_size,)
    return (latent_size if name == "latent_covariance" else attributes, latent_size)
