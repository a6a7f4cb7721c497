"""What a cluster is made of, each started as a process of this machine."""

import os
import pwd
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import psycopg
import requests
from processes import Cluster, Part, StartError, identity, running

REPOSITORY = Path(__file__).resolve().parents[2]
BUCKET = "facevae"
HEAD_ADDRESS = "127.0.0.2"
OBJECT_STORE_BYTES = 500_000_000


def up(
    cluster: Cluster,
    workers: int,
    cpus: int,
    told: Callable[[dict[str, str]], dict[str, str]] = dict,
) -> None:
    """Start everything, or say what is up already.

    Args:
        cluster: what is started.
        workers: Ray worker nodes.
        cpus: of each of them.
        told: what clients and all parts but S3 have in their environment, made of what they would
            have; S3 answers when it is called.

    Raises:
        StartError: something did not start; nothing of it is left then.
    """
    if not sys.platform.startswith("linux"):
        raise StartError("a rehearsal cluster needs Linux: its nodes have addresses of 127.0.0.0/8")
    if cluster.is_up:
        if cluster.workers != workers:
            raise StartError(f"a cluster of {cluster.workers} workers is up; say down first")
        print("already up")
        return
    cluster.end()
    cluster.begin(workers, client_environment())
    try:
        _start_all(cluster, workers, cpus, told)
    except BaseException:
        print(f"the logs are in {cluster.keep_logs()}", file=sys.stderr)
        cluster.end()
        raise


def client_environment() -> dict[str, str]:
    """Addresses and keys, for clients and for all parts of the cluster."""
    return {
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{_port(8265)}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{_port(9000)}",
        "AWS_ACCESS_KEY_ID": "rehearsal",
        "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(24),
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{_port(5000)}",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": secrets.token_urlsafe(24),
    }


def _start_all(
    cluster: Cluster,
    workers: int,
    cpus: int,
    told: Callable[[dict[str, str]], dict[str, str]],
) -> None:
    with _step("S3"):
        _start_s3(cluster)
    cluster.environment = told(cluster.environment)
    with _step("Postgres"):
        store = _start_postgres(cluster)
    with _step("Ray head"):  # MLflow takes as long to start; it does so beside
        _start_mlflow(cluster, store)
        gcs = start_head(cluster)
    for number in range(1, workers + 1):
        with _step(f"Ray worker {number}"):
            start_worker(cluster, number, gcs, cpus)
    with _step("MLflow"):
        cluster.wait("mlflow", _answers(cluster, "mlflow"))


@contextmanager
def _step(what: str) -> Iterator[None]:
    started = time.monotonic()
    print(f"{what} ...", end=" ", flush=True)
    yield
    print(f"up ({time.monotonic() - started:.0f} s)", flush=True)


def start_again(cluster: Cluster, name: str) -> None:
    """Start a part that was killed.

    Raises:
        StartError: no such part, it runs, or it does not start.
    """
    part = cluster.part(name)
    if running(part) is not None:
        raise StartError(f"{name} is running")
    with _step(name):
        start_part(cluster, part)


def start_part(cluster: Cluster, part: Part) -> None:
    """Start a part that does not run as it was started before, and wait for it.

    Raises:
        StartError: it does not start.
    """
    cluster.start(part.name, part.command, part.environment, part.user)
    cluster.wait(part.name, _answers(cluster, part.name))
    if part.name == "s3":
        _make_bucket(cluster)


def _answers(cluster: Cluster, name: str) -> Callable[[], bool]:
    """What tells that a part is there for others."""
    if name == "mlflow":
        url = f"{cluster.environment['MLFLOW_TRACKING_URI']}/health"
        return lambda: requests.get(url, timeout=2).ok
    if name == "s3":
        url = cluster.environment["AWS_ENDPOINT_URL"]
        return lambda: requests.get(url, timeout=2).status_code < 500
    ready = "database system is ready" if name == "postgres" else "Ray runtime started"
    return lambda: ready in cluster.log(name).read_text(errors="replace")


def _port(preferred: int = 0) -> int:
    """A free port: the usual one if nothing has it."""
    for number in (preferred, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", number))
            return int(probe.getsockname()[1])
    raise AssertionError("port 0 always binds")


def _tool(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def _port_of(url: str) -> str:
    return url.rpartition(":")[2]


def _start_s3(cluster: Cluster) -> None:
    endpoint = cluster.environment["AWS_ENDPOINT_URL"]
    cluster.start("s3", [_tool("moto_server"), "-H", "127.0.0.1", "-p", _port_of(endpoint)])
    cluster.wait("s3", _answers(cluster, "s3"))
    _make_bucket(cluster)


def _make_bucket(cluster: Cluster) -> None:
    """An empty bucket: the server keeps everything in its memory."""
    login = {
        name.lower(): cluster.environment[name]
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    }
    client = boto3.client(
        "s3",
        endpoint_url=cluster.environment["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        **login,
    )
    client.create_bucket(Bucket=BUCKET)


def _start_postgres(cluster: Cluster) -> str:
    """Start Postgres with a database for MLflow; returns its URI, or that of an SQLite file."""
    programs = _postgres_programs()
    if programs is None:
        print("not installed, so MLflow gets SQLite;", end=" ")
        return f"sqlite:///{cluster.data}/mlflow.db"
    user = _postgres_user()
    folder, password, port = cluster.data / "postgres", secrets.token_urlsafe(24), _port()
    folder.mkdir(mode=0o700)
    secret = folder / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    for path in (folder, secret):
        os.chown(path, user, -1)
    data = folder / "data"
    initdb: list[str | Path] = [
        *(programs / "initdb", "--pgdata", data, "--username=mlflow", f"--pwfile={secret}"),
        *("--auth=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C"),
    ]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **identity(user))
    secret.unlink()
    server = [programs / "postgres", "-D", data, "-p", port, "-k", folder]
    cluster.start("postgres", [*server, "-c", "listen_addresses=127.0.0.1"], user=user)
    login = {"host": "127.0.0.1", "port": port, "user": "mlflow", "password": password}
    cluster.wait("postgres", lambda: _make_database(login))
    return f"postgresql://mlflow:{password}@127.0.0.1:{port}/mlflow"


def _make_database(login: dict[str, Any]) -> bool:
    # CREATE DATABASE is not for transactions
    with psycopg.connect(dbname="postgres", autocommit=True, **login) as connection:
        connection.execute("CREATE DATABASE mlflow")
    return True


def _postgres_programs() -> Path | None:
    """The folder of the newest Postgres; Debian keeps it off the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))
    for folder in (*reversed(debian), *map(Path, os.get_exec_path())):
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return folder
    return None


def _postgres_user() -> int:
    """Whom Postgres runs as: not root, which it refuses."""
    if os.getuid() != 0:
        return os.getuid()
    with suppress(KeyError):
        return pwd.getpwnam("postgres").pw_uid
    return pwd.getpwnam("nobody").pw_uid


def _start_mlflow(cluster: Cluster, store: str) -> None:
    port = _port_of(cluster.environment["MLFLOW_TRACKING_URI"])
    settings = {
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow",
        "MLFLOW_AUTH_ADMIN_USERNAME": cluster.environment["MLFLOW_TRACKING_USERNAME"],
        "MLFLOW_AUTH_ADMIN_PASSWORD": cluster.environment["MLFLOW_TRACKING_PASSWORD"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port},localhost:{port}",
        "MLFLOW_PORT": port,
        "TMPDIR": str(cluster.data),
    }
    serve = REPOSITORY / "cluster" / "mlflow" / "serve"
    cluster.start("mlflow", [sys.executable, serve], settings)


def start_head(cluster: Cluster) -> int:
    """Start the head; returns the port of its control store."""
    gcs, dashboard = _port(6379), _port_of(cluster.environment["RAY_API_SERVER_ADDRESS"])
    options = [
        "--head",
        "--num-cpus=0",
        f"--port={gcs}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={_port(10001)}",
        f"--temp-dir={cluster.data}/ray",
    ]
    _start_ray(cluster, "head", HEAD_ADDRESS, options)
    return gcs


def start_worker(cluster: Cluster, number: int, gcs: int, cpus: int) -> None:
    """Start a node that works, at an address of its own."""
    address = f"127.0.0.{number + 2}"
    options = [f"--address={HEAD_ADDRESS}:{gcs}", f"--num-cpus={cpus}"]
    _start_ray(cluster, f"worker-{number}", address, options)


def _start_ray(cluster: Cluster, name: str, address: str, options: list[str]) -> None:
    """Start a node and wait for it: two that start at once take each other's socket."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    common = [
        "--block", f"--node-ip-address={address}", f"--dashboard-agent-listen-port={_port()}",
        f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats",
    ]  # fmt: skip
    cluster.start(name, [_tool("ray"), "start", *common, *options], {"PATH": path})
    cluster.wait(name, _answers(cluster, name))
