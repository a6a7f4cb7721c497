"""A cluster that does not answer is one line in seconds, before Ray waits for it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from facevae.errors import UserError
from facevae.ray_cluster import address as module
from facevae.ray_cluster.address import check_address, is_this_machine

SETTINGS_FRAME = b"\0\0\0\4\0\0\0\0\0"


@contextlib.contextmanager
def listening(answer: bytes | None, host: str = "127.0.0.1") -> Iterator[int]:
    """A port that answers whoever greets it, or (None) says nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as server:
        server.bind((host, 0))
        server.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(100)
                        connection.sendall(answer or b"")

        if answer is not None:
            threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "localhost:{}", "ray://127.0.0.1:{}"])
def test_a_cluster_that_answers_is_found_at_once(form):
    with listening(SETTINGS_FRAME) as port:
        begun = time.monotonic()
        check_address(form.format(port))
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "no answer in time"),
        (b"", "does not speak as Ray"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak as Ray does"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak as Ray does"),
    ],
)
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_what_is_no_cluster_is_one_line(scheme, answer, reason):
    with (
        listening(answer) as port,
        pytest.raises(UserError, match=f"no Ray cluster answers at RAY_ADDRESS .*({reason})"),
    ):
        check_address(f"{scheme}127.0.0.1:{port}", 0.2)


def test_a_port_that_nobody_has_is_one_line_with_the_remedy():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=r"\(connection refused\): start the cluster.*or unset it"):
        check_address(f"127.0.0.1:{port}", 0.2)


def test_a_cluster_that_is_starting_is_waited_for(monkeypatch):
    reasons = iter(["connection refused", "connection refused", None])
    monkeypatch.setattr(module, "_why_not", lambda *_: next(reasons))
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
    check_address("head:6379")


def test_with_tls_an_open_port_is_enough(monkeypatch):
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with listening(None) as port:
        check_address(f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    "given", ["head", "head:", "head:0", "head:99999", "a:b", "::1:6379", "ray://"]
)
def test_what_is_no_address_says_what_one_looks_like(given):
    with pytest.raises(UserError, match=r"expected HOST:6379, ray://HOST:10001 or auto"):
        check_address(given)


@pytest.mark.parametrize("given", ["http://head:8265", "https://head"])
def test_a_dashboards_address_says_what_it_is_for(given):
    with pytest.raises(UserError, match="takes jobs: send one with facevae submit"):
        check_address(given)


@pytest.mark.parametrize(
    ("given", "host", "port"),
    [
        ("ray://head", "head", 10001),
        ("ray://head:7/path?x", "head", 7),
        ("[::1]:6379", "::1", 6379),
        ("a-b.example.com:6379", "a-b.example.com", 6379),
    ],
)
def test_where_it_is_asked(monkeypatch, given, host, port):
    asked = []
    monkeypatch.setattr(module, "_why_not", lambda *where: asked.append(where[:2]))
    check_address(given)
    assert asked == [(host, port)]


def test_auto_is_the_cluster_of_this_machine_or_one_line(monkeypatch):
    def none(*_):
        raise ConnectionError("Could not find any running Ray instance. " * 9)

    monkeypatch.setattr(module, "get_ray_address_from_environment", none)
    with pytest.raises(UserError, match="is auto, and no Ray cluster runs on this machine: start"):
        check_address("auto")
    with listening(None) as port:  # what a dead cluster left on record
        monkeypatch.setattr(
            module, "get_ray_address_from_environment", lambda *_: f"127.0.0.1:{port}"
        )
        with pytest.raises(UserError, match=rf"RAY_ADDRESS 127\.0\.0\.1:{port} \(no answer"):
            check_address("auto", 0.2)


@pytest.mark.parametrize(
    ("given", "is_here"),
    [(None, True), ("", True), ("local", True), ("auto", False), ("h:1", False)],
)
def test_an_empty_address_is_this_machine(monkeypatch, given, is_here):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if given is not None:
        monkeypatch.setenv("RAY_ADDRESS", given)
    assert is_this_machine() == is_here


@pytest.mark.slow
def test_sigterm_ends_the_wait():
    code = "from facevae.ray_cluster.connect import connect\nprint('begins', flush=True)\nconnect()"
    with listening(None) as port:
        environment = os.environ | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"begins\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
