"""What an edit asks for, as moved latents: rows of faces, columns of strengths or steps.

`edit_latents` takes any latents, stored ones and those of photographs alike.

Legend: F faces, K columns, m attributes, Z latent size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from facevae.attributes.directions import Directions, rescale
from facevae.attributes.hdf5 import read_rows, rows_of
from facevae.attributes.vectors import AttributeVectors, index_of
from facevae.config import EditingConfig
from facevae.editing import moves
from facevae.editing.latent_edit import choose_faces
from facevae.errors import UserError
from facevae.runs.progress import log

DEVIATIONS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
"""how far principal components are moved"""
GRID_COLUMNS = 8
"""random faces side by side"""


class Edited(NamedTuple):
    """Latents to decode: a row per face, a column per strength, level or step."""

    names: list[str]
    latents: Float[np.ndarray, "F K Z"]
    columns: tuple[float, ...]
    stopped: Bool[np.ndarray, "F K"]
    """where a move was stopped since it would leave the data"""
    rows_side_by_side: int


def edit_stored(uri: str, vectors: AttributeVectors, editing: EditingConfig) -> Edited:
    """The latents that an edit of stored faces asks for.

    Raises:
        UserError: no such attribute or face, or the vectors do not have what it takes.
    """
    if editing.kind == "random":
        return _random(vectors, editing)
    if editing.kind == "components":
        return _components(uri, vectors, editing)
    if editing.kind == "interpolate":
        return _interpolate(uri, vectors, editing)
    source = read_source(uri, editing)
    faces = choose_faces(uri, editing)
    return edit_latents(faces.image_id, faces.latents, vectors, editing, source)


def edit_latents(
    names: list[str],
    latents: Float[np.ndarray, "F Z"],
    vectors: AttributeVectors,
    editing: EditingConfig,
    source: Float[np.ndarray, "1 Z"] | None = None,
) -> Edited:
    """Faces moved along attributes: by strengths, to levels, or to the levels of a source face.

    Raises:
        UserError: no such attribute, or the vectors do not have what the edit takes.
    """
    directions = directions_of(vectors, editing)
    amounts, columns = np.array(list(editing.amounts.values())), columns_of(editing)
    if source is None and editing.level is None:
        moved = latents[:, None] + np.asarray(columns)[None, :, None] * (amounts @ directions)
    else:
        scorers = _directions(vectors).scorers(_indices(vectors, list(editing.amounts)))
        if source is None:
            targets = np.array(columns)[None, :, None] * np.ones((1, 1, len(directions)))
        else:
            own, theirs = scorers.levels(latents), scorers.levels(source)
            targets = np.stack([own, np.broadcast_to(theirs, own.shape)], axis=1)
        targets = np.broadcast_to(targets, (len(latents), *targets.shape[1:]))
        moved = moves.to_levels(latents, directions.astype(np.float64), scorers, targets)
    stopped = np.zeros(moved.shape[:2], bool)
    if editing.damp and editing.preset is None and vectors.directions is not None:
        found, gap = vectors.directions, np.clip(amounts, -1, 1) @ directions
        moved, stopped = moves.damp(latents, moved, found.latent_mean, found.latent_covariance, gap)
    return Edited(names, moved, columns, stopped, editing.columns)


def columns_of(editing: EditingConfig) -> tuple[float, ...]:
    """The strengths or levels at which faces are shown; before and after for a transfer."""
    if editing.transfer is not None:
        return (0.0, 1.0)
    return editing.strengths if editing.level is None else editing.level


def read_source(uri: str, editing: EditingConfig) -> Float[np.ndarray, "1 Z"] | None:
    """The latent of the face whose levels are transferred; none: none are.

    Raises:
        UserError: there is no such face.
    """
    if editing.transfer is None:
        return None
    return read_rows(uri, rows_of(uri, [editing.transfer])).latents


def check_edit(vectors: AttributeVectors, editing: EditingConfig) -> None:
    """Check that the vectors have what an edit takes, and say where it has to do with less.

    Raises:
        UserError: they do not.
    """
    if editing.kind == "interpolate":
        if vectors.directions is None and editing.interpolation == "spherical":
            raise UserError(
                "these attribute vectors do not tell the mean face, around which a spherical way "
                "leads: say --editing.interpolation linear, or derive directions with facevae "
                "vectors"
            )
        return
    if not editing.moves_attributes:
        _directions(vectors)
        return
    directions_of(vectors, editing)
    if editing.level is not None or editing.transfer is not None:
        chosen = _indices(vectors, list(editing.amounts))
        _check_holds(vectors.names, _directions(vectors), chosen)
    if editing.method == "auto" and vectors.directions is not None and not editing.hold:
        chosen = _indices(vectors, list(editing.amounts))
        for why in _without_partial(vectors.names, vectors.directions, chosen).values():
            log(f"{why}; moved along the mean difference instead")


def methods_of(vectors: AttributeVectors, editing: EditingConfig) -> dict[str, str]:
    """Which direction each attribute is moved along, by name: what `auto` comes to."""
    names = list(editing.amounts)
    if editing.preset is not None or vectors.directions is None:
        return dict.fromkeys(names, "mean")
    if editing.method != "auto":
        return dict.fromkeys(names, editing.method)
    if editing.hold:
        return dict.fromkeys(names, "smallest move")
    missing = _without_partial(vectors.names, vectors.directions, _indices(vectors, names))
    return {n: "mean" if k in missing else "partial" for k, n in enumerate(names)}


def directions_of(vectors: AttributeVectors, editing: EditingConfig) -> Float[np.ndarray, "m Z"]:
    """The direction of each attribute to change, which leaves the held ones as they are.

    Raises:
        UserError: no such attribute, none with a vector, or holds that contradict the change.
    """
    mean = np.stack([vectors.vector(name) for name in list(editing.amounts)])
    for name in editing.hold:
        vectors.vector(name)
    if editing.preset is not None or (editing.method == "mean" and not editing.hold):
        return mean
    if editing.method == "auto" and vectors.directions is None and not editing.hold:
        return mean
    directions, chosen = _directions(vectors), _indices(vectors, list(editing.amounts))
    held = _indices(vectors, editing.hold)
    if held:
        _check_holds(vectors.names, directions, [*chosen, *held])
        if editing.method == "auto":
            scorers = directions.scorers([*chosen, *held])
            changes = np.eye(len(scorers.gap), len(chosen)) * scorers.gap[: len(chosen)]
            covariance = directions.latent_covariance
            return moves.smallest_move(scorers.weights, changes, covariance)
    found = _of_method(vectors, directions, chosen, editing.method, mean.astype(np.float64))
    if held:
        weights = directions.lda[held]
        found = moves.hold_scores(found, weights, directions.latent_covariance)
        found = rescale(found, directions.scorers(chosen))
        for name, move in zip(list(editing.amounts), found, strict=True):
            if not np.isfinite(move).all():
                raise UserError(
                    f"nothing is left of {name} by method {editing.method} while "
                    f"{', '.join(editing.hold)} are held: hold fewer, or say --editing.method auto"
                )
    return found


def _of_method(
    vectors: AttributeVectors,
    directions: Directions,
    chosen: list[int],
    method: str,
    mean: Float[np.ndarray, "m Z"],
) -> Float[np.ndarray, "m Z"]:
    if method == "mean":
        return mean
    if method == "lda":
        return rescale(directions.lda[chosen], directions.scorers(chosen))
    missing = _without_partial(vectors.names, directions, chosen)
    if method == "partial" and missing:
        why = next(iter(missing.values()))
        raise UserError(f"{why}; say --editing.method mean, or hold those with --editing.hold")
    found = directions.partial[chosen]
    found[list(missing)] = mean[list(missing)]
    return found


def _without_partial(
    names: Sequence[str], directions: Directions, chosen: Sequence[int]
) -> dict[int, str]:
    """Why some of the chosen attributes have no partial direction, by position."""
    return {
        place: f"{names[index]} has no partial direction: its labels hardly tell it from other "
        f"attributes (variance inflation {directions.variance_inflation[index]:.3g})"
        for place, index in enumerate(chosen)
        if not np.isfinite(directions.partial[index]).all()
    }


def _check_holds(names: Sequence[str], directions: Directions, scored: list[int]) -> None:
    """Check that attributes can be changed while others are held."""
    alike = moves.same_scores(directions.lda[scored], directions.latent_covariance)
    if alike is not None:
        first, second = (names[scored[place]] for place in alike)
        raise UserError(
            f"{first} and {second} are told by the same score in these latents, so one cannot be "
            "changed or held without the other: leave one of them out of --editing.attribute and "
            "--editing.hold"
        )


def _directions(vectors: AttributeVectors) -> Directions:
    if vectors.directions is None:
        raise UserError(
            "these attribute vectors have mean differences alone, as the original's and those of "
            "older versions: derive the other directions from them with facevae vectors, or say "
            "--editing.method mean without hold, level, transfer, random and components"
        )
    return vectors.directions


def _indices(vectors: AttributeVectors, names: Sequence[str]) -> list[int]:
    return [index_of(name, vectors.names) for name in names]


def _random(vectors: AttributeVectors, editing: EditingConfig) -> Edited:
    found, count = _directions(vectors), editing.random or 0
    latents = moves.random_latents(
        found.latent_mean, found.latent_covariance, found.posterior_variance, count, editing.seed
    )
    names = [f"seed {editing.seed}, {number}" for number in range(count)]
    return _as_it_is(names, latents[:, None], (0.0,), min(count, GRID_COLUMNS))


def _components(uri: str, vectors: AttributeVectors, editing: EditingConfig) -> Edited:
    found, start = _directions(vectors), _directions(vectors).latent_mean
    if editing.image_ids is not None:
        start = read_rows(uri, rows_of(uri, editing.image_ids[:1])).latents[0]
    directions, shares = moves.principal_components(
        found.latent_covariance, editing.components or 0
    )
    names = [f"{number} ({share:.1%})" for number, share in enumerate(shares, start=1)]
    moved = start + np.array(DEVIATIONS)[None, :, None] * directions[:, None]
    return _as_it_is(names, moved, DEVIATIONS, 1)


def _interpolate(uri: str, vectors: AttributeVectors, editing: EditingConfig) -> Edited:
    assert editing.interpolate is not None
    first, second = read_rows(uri, rows_of(uri, editing.interpolate)).latents
    is_round = editing.interpolation == "spherical"
    centre = _directions(vectors).latent_mean if is_round else None
    way = moves.interpolate(first, second, editing.steps, centre)
    columns = tuple(round(share, 2) for share in np.linspace(0, 1, editing.steps).tolist())
    return _as_it_is([" to ".join(editing.interpolate)], way[None], columns, 1)


def _as_it_is(
    names: list[str],
    latents: Float[np.ndarray, "F K Z"],
    columns: tuple[float, ...],
    side_by_side: int,
) -> Edited:
    """Latents that no move was stopped of."""
    return Edited(names, latents, columns, np.zeros(latents.shape[:2], bool), side_by_side)
