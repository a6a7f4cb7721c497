"""Whether a cluster answers at RAY_ADDRESS: Ray itself waits there for minutes, deaf to signals."""

import os
import re
import socket
import time

from ray._private.services import get_ray_address_from_environment

from facevae.errors import UserError

VARIABLE = "RAY_ADDRESS"
CLIENT_PORT = 10001
"""the port of `ray://HOST`"""
HOST_AND_PORT = re.compile(r"(\[[\da-fA-F:]+\]|[^\s:/\[\]]+)(?::(\d{1,5}))?")
WAIT_SECONDS = 10.0
"""how long a cluster that is just starting may take to answer"""
PAUSE_SECONDS = 0.5
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""what a client of HTTP/2, and so of gRPC, begins with; the server's answer is SETTINGS too"""
SETTINGS = 4
REMEDY = f"start the cluster, correct {VARIABLE}, or unset it to run on this machine"


def is_this_machine() -> bool:
    """Whether Ray is started on this machine, for this process alone."""
    return os.environ.get(VARIABLE, "") in ("", "local")


def check_address(address: str, seconds: float = WAIT_SECONDS) -> None:
    """Check that a cluster answers.

    Args:
        address: HOST:PORT, ray://HOST:PORT or auto.
        seconds: how long to wait for it.

    Raises:
        UserError: it is no cluster's address, or none answers there.
    """
    if re.match("https?://", address):
        raise UserError(
            f"{VARIABLE} {address} is a dashboard's address, which takes jobs: send one with "
            f"facevae submit, or set {VARIABLE} to HOST:6379, or unset it to run on this machine"
        )
    if address == "auto":
        address = _local_cluster()
    elif "://" in address and not address.startswith("ray://"):
        return  # of a package that brings Ray another way to clusters
    host, port = _host_and_port(address)
    ends = time.monotonic() + seconds
    while reason := _why_not(host, port, max(ends - time.monotonic(), PAUSE_SECONDS)):
        if time.monotonic() >= ends:
            raise UserError(f"no Ray cluster answers at {VARIABLE} {address} ({reason}): {REMEDY}")
        time.sleep(PAUSE_SECONDS)


def _local_cluster() -> str:
    """The address of the cluster that was started on this machine."""
    try:
        return str(get_ray_address_from_environment("auto", None))
    except ConnectionError as error:
        raise UserError(
            f"{VARIABLE} is auto, and no Ray cluster runs on this machine: {REMEDY}"
        ) from error


def _host_and_port(address: str) -> tuple[str, int]:
    is_client = address.startswith("ray://")
    found = HOST_AND_PORT.fullmatch(address.removeprefix("ray://").partition("/")[0])
    port = found and (found[2] or (CLIENT_PORT if is_client else None))
    if not found or port is None or not 0 < int(port) < 1 << 16:
        raise UserError(
            f"{VARIABLE} {address} is no cluster's address: expected HOST:6379, "
            f"ray://HOST:{CLIENT_PORT} or auto"
        )
    return found[1].strip("[]"), int(port)


def _why_not(host: str, port: int, seconds: float) -> str | None:
    """Why what is there does not answer as Ray does; none: it does."""
    try:
        with socket.create_connection((host, port), seconds) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return None  # it would greet in another way
            connection.sendall(GREETING)
            answer = connection.recv(9)
    except TimeoutError:
        return "no answer in time"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    is_ray = len(answer) > 3 and answer[3] == SETTINGS
    return None if is_ray else "what listens there does not speak as Ray does"
