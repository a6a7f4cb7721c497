"""SQLite stores that were moved with the folders of their runs: found again, with their files."""

import contextlib
import sqlite3
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from facevae.tracking.store import RunId, sqlite_path, sqlite_uri

ARTIFACTS = "mlartifacts"
"""the folder of an SQLite store's files, beside it"""
PLACES = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
"""the columns of a store that tell where files are, by table"""
LEVELS = 3
"""how far from a run's folder its store may be"""


def artifact_root(uri: str) -> str | None:
    """Where the files of an SQLite store are; a server decides for itself."""
    path = sqlite_path(uri)
    return None if path is None else (Path(path).parent / ARTIFACTS).as_uri()


def find_store(run: RunId, folder: str) -> RunId:
    """A run with its store as it is found now from the run's folder.

    A folder that was moved or copied takes the stores along that lie in it, or beside it in
    another folder that was moved with it: one of the same name that holds the run is the run's.
    """
    path = sqlite_path(run.uri)
    if path is None:
        return run
    recorded = Path(path)
    for candidate in _candidates(recorded, Path(folder)):
        if candidate == recorded:
            return run
        if candidate.is_file() and _holds(candidate, run.run_id):
            return run._replace(uri=sqlite_uri(str(candidate)))
    return run


def _candidates(recorded: Path, folder: Path) -> Iterator[Path]:
    """Places that end as the recorded one does, the nearest to the folder first."""
    above = [folder, *folder.parents][:LEVELS]
    for place, levels in product(above, range(1, LEVELS + 1)):
        yield place.joinpath(*recorded.parts[-levels:])


def _holds(store: Path, run_id: str) -> bool:
    with contextlib.suppress(sqlite3.Error), _opened(store, "ro") as connection:
        wanted = "SELECT 1 FROM runs WHERE run_uuid = ?"
        return connection.execute(wanted, (run_id,)).fetchone() is not None
    return False


def mend_artifact_places(uri: str) -> None:
    """Have an SQLite store that was moved with its files know where they are.

    Only what lay beside the store, and lies there again, is mended.
    """
    path, root = sqlite_path(uri), artifact_root(uri)
    if path is None or root is None or not Path(path).is_file():
        return
    file = Path(path)
    # What is wrong with a store is found out and told by who uses it next.
    with contextlib.suppress(sqlite3.Error), _opened(file, "rw") as store, store:
        listed = store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = {name for (name,) in listed}
        if not {"experiments", "runs"} <= tables:
            return
        for old in _moved_roots(store, root, file.parent / ARTIFACTS):
            for table in PLACES.keys() & tables:
                column = PLACES[table]
                store.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR instr({column}, ?) = 1",
                    (root, len(old) + 1, old, f"{old}/"),
                )


def _moved_roots(store: sqlite3.Connection, root: str, here: Path) -> list[str]:
    """The places that a store thinks files of runs in, which are beside it now."""
    locations = [
        location
        for (location,) in store.execute("SELECT DISTINCT artifact_location FROM experiments")
        if location and location != root and location.endswith(f"/{ARTIFACTS}")
    ]
    runs = "SELECT run_uuid FROM runs WHERE instr(artifact_uri, ?) = 1"
    return [
        location
        for location in locations
        if any((here / run).is_dir() for (run,) in store.execute(runs, (f"{location}/",)))
    ]


@contextlib.contextmanager
def _opened(store: Path, mode: str) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"{store.as_uri()}?mode={mode}", uri=True, timeout=30)
    with contextlib.closing(connection):
        yield connection
