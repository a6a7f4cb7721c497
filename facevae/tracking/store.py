"""Which tracking store a command writes to, and how its address is written."""

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from facevae.config import TrackingConfig
from facevae.errors import UserError
from facevae.runs import storage

VARIABLE, FILE_STORES = "MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"
SERVER = f"name a tracking server with {VARIABLE} or --tracking.uri"
SQLITE = "sqlite:///"
EXAMPLES = "http://HOST:5000 for a server, or sqlite:////folder/mlflow.db for a file"
HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/.*)?|localhost(/.*)?|\[[\da-fA-F:]+\]:\d+(/.*)?")
NAMES = ("databricks", "databricks-uc", "uc")
"""stores that are no addresses"""


class RunId(NamedTuple):
    """A run and the store that holds it: all that another process needs to add to it."""

    uri: str
    run_id: str


def store_uri(config: TrackingConfig, output: str, model_run: RunId | None = None) -> str:
    """The tracking store of a command.

    In this order: the configuration's, MLFLOW_TRACKING_URI, that of the training run whose model
    is used (if it is there and may be written to: it may be a colleague's), `mlflow.db` in the
    output folder.

    Raises:
        UserError: no address of a store, or an SQLite store in object storage.
    """
    given = (config.uri or os.environ.get(VARIABLE) or "").strip()
    if given:
        _check_address(given, "--tracking.uri" if config.uri else VARIABLE)
        return absolute_store(given)
    if model_run is not None and may_write(model_run.uri):
        return absolute_store(model_run.uri)
    if not storage.is_local(output):
        raise UserError(
            f"{output} is in object storage, which cannot hold an SQLite tracking store: {SERVER}"
        )
    return sqlite_uri(storage.join(storage.absolute(output), "mlflow.db"))


def absolute_store(uri: str) -> str:
    """The one spelling of a store, which no working directory changes: Ray moves its workers'."""
    path = sqlite_path(uri)
    if path is not None:
        _, question, options = uri.partition("?")
        return f"{sqlite_uri(path)}{question}{options}"
    folder = _store_folder(uri)
    if folder is not None:
        return Path(folder).as_uri()
    return uri.rstrip("/")


def sqlite_uri(path: str) -> str:
    """The address of an SQLite file at an absolute path.

    SQLAlchemy decodes what stands behind a %, and takes what is behind a ? for options. MLflow
    makes the folders of the text as it is: from such a name on all are encoded to one, which it
    does not make.
    """
    names = path.split("/")
    special = next((i for i, name in enumerate(names) if {"%", "?"} & {*name}), len(names))
    rest = quote("/".join(names[special:]), safe=" #:;&=+@,!$'()*~")
    return SQLITE + "/".join([*names[:special], rest] if rest else names)


def sqlite_path(uri: str) -> str | None:
    """The absolute path of an SQLite store's file; none: it is another kind of store."""
    if not uri.startswith(SQLITE):
        return None
    return storage.absolute(unquote(uri.removeprefix(SQLITE).partition("?")[0]))


def may_write(uri: str) -> bool:
    """Whether a store that exists takes records; what a server allows is not known here."""
    path = sqlite_path(uri)
    if path is None:
        return True
    # SQLite makes its journal beside the store.
    return Path(path).is_file() and all(os.access(p, os.W_OK) for p in (path, Path(path).parent))


def refuse_read_only(uri: str) -> None:
    """Check that a store that is there takes records.

    Raises:
        UserError: it may only be read.
    """
    path = sqlite_path(uri)
    if path is not None and Path(path).exists() and not may_write(uri):
        raise UserError(
            f"the tracking store {path} may only be read: name another with {VARIABLE} or "
            "--tracking.uri"
        )


def _store_folder(uri: str) -> str | None:
    """The absolute path of a store that is a folder of files; none: it is another kind of store."""
    if not storage.is_local(uri) or uri.partition(":")[0] in NAMES:
        return None
    if uri.startswith("file:"):
        path = storage.FILE_SCHEME.sub("", uri)
        return storage.absolute(unquote(path.removeprefix("file:")))
    return storage.absolute(uri)


def _check_address(uri: str, name: str) -> None:
    """Check that it is an address of a store.

    Args:
        uri: as the user gave it.
        name: the option or variable that it was given with.

    Raises:
        UserError: it is none; says what one looks like.
    """
    if HOST_AND_PORT.fullmatch(uri):
        raise UserError(f"{name} {uri} is no address of a tracking store: write http://{uri}")
    if uri.startswith(("http:", "https:")):
        _check_server(uri, name)
    elif uri.startswith("sqlite:"):
        path = uri.removeprefix(SQLITE)
        if path in ("", uri) or not storage.is_local(path):
            raise UserError(
                f"{name} {uri}: SQLite keeps its store in a file of this machine, and not in "
                f"object storage: write sqlite:////folder/mlflow.db, or {SERVER}"
            )
    elif _store_folder(uri) and os.environ.get(FILE_STORES, "").lower() not in ("true", "1"):
        raise UserError(
            f"{name} {uri} names a folder, which MLflow takes as a store only with "
            f"{FILE_STORES}=true: expected {EXAMPLES}"
        )


def _check_server(uri: str, name: str) -> None:
    """Check that it is a server's address, and not a page's.

    Raises:
        UserError: it is not; says what it looks like.
    """
    parts = urlsplit(uri)
    try:
        is_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_host = False
    if not is_host:
        raise UserError(f"{name} {uri} names no host and port: expected {EXAMPLES}")
    if parts.fragment or parts.query or "#" in uri or "?" in uri:
        server = re.split("[#?]", uri)[0].rstrip("/")
        raise UserError(
            f"{name} {uri} is a page in a browser: write {server}, the server's address"
        )
