"""Where a verb reads and writes, checked against the machines that must see it."""

from collections.abc import Mapping
from pathlib import Path

from facevae import storage
from facevae.errors import UserError

UPLOADS = "working_dir_files"
"""the folder below which Ray unpacks what a job was submitted with"""


def check_places(places: Mapping[str, str | None], machines: int) -> None:
    """Check that every machine of the cluster can see the places.

    Args:
        places: absolute paths or URIs, by the option that names them; none: not given.
        machines: nodes of the cluster.

    Raises:
        UserError: a place is on one machine's own disk, or in a folder that Ray deletes.
    """
    for option, place in places.items():
        if place is None or not storage.is_local(place):
            continue
        if UPLOADS in Path(place).parts:
            raise UserError(
                f"{option} {place} lies in the job's uploaded files, which Ray deletes: give an "
                "absolute path or a URI such as s3://bucket/folder"
            )
        if machines > 1 and not storage.shared_by_machines(place):
            raise UserError(
                f"{option} {place} is on one machine's own disk "
                f"({storage.file_system_type(place)}), and the cluster has {machines} nodes: give "
                "s3://, gs:// or hf://, or a path on a network file system"
            )


def sqlite_file(store: str) -> str | None:
    """The file of an SQLite tracking store; none: the store is a server."""
    path = store.removeprefix("sqlite:///")
    return None if path == store else path
