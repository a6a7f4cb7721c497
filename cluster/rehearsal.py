"""A rehearsal cluster on one machine: what a cluster has, as processes with loopback addresses.

`up` starts Postgres (SQLite where there is none), an S3 server, MLflow over both, a Ray head
without CPUs and N Ray workers, each with an address of its own. `env` prints what a client needs.
`down` ends what `up` started, and nothing else. All data is gone after `down`: the S3 server keeps
it in memory.
"""

import argparse
import json
import os
import pwd
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import psutil
import psycopg
import requests

REPOSITORY = Path(__file__).resolve().parents[1]
BUCKET = "facevae"
HEAD_ADDRESS = "127.0.0.2"
OBJECT_STORE_BYTES = 500_000_000


class StartError(Exception):
    """What went wrong, in one line."""


class Started(NamedTuple):
    """A process of ours; the time tells it from a later one of the same number."""

    name: str
    pid: int
    created: float


class Cluster:
    """The processes of a rehearsal cluster, remembered in `cluster.json` of its folder."""

    def __init__(self, folder: Path) -> None:
        """Takes the folder; a cluster that is up is read from there."""
        self._file = folder / "cluster.json"
        state = json.loads(self._file.read_text()) if self._file.exists() else {}
        self.started = [Started(*each) for each in state.get("started", [])]
        self.environment: dict[str, str] = state.get("environment", {})
        self.workers: int = state.get("workers", 0)
        self.data = Path(state["data"]) if state else Path()

    @property
    def is_up(self) -> bool:
        """Whether there is anything to end."""
        return bool(self.started) and any(map(_process, self.started))

    def begin(self, workers: int) -> None:
        """Make the place for data and logs; sockets allow only short paths."""
        self.data = Path(tempfile.mkdtemp(prefix="facevae-", dir="/tmp"))
        self.data.chmod(0o711)  # Postgres refuses to be root, and must reach its folder below
        self.workers = workers
        self._save()

    def start(self, name: str, command: list[Any], **options: Any) -> Path:
        """Start a process of the cluster; returns its log."""
        log = self.data / f"{name}.log"
        environment = os.environ | self.environment | options.pop("environment", {})
        with log.open("w") as file:
            process = subprocess.Popen(
                [str(word) for word in command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                **options,
            )
        self.started.append(Started(name, process.pid, psutil.Process(process.pid).create_time()))
        self._save()
        return log

    def wait(self, name: str, ready: Callable[[], bool], seconds: float = 90) -> None:
        """Wait until a process answers.

        Raises:
            StartError: it ended, or does not answer in time.
        """
        deadline = time.monotonic() + seconds
        (started,) = [each for each in self.started if each.name == name]
        while time.monotonic() < deadline:
            with suppress(OSError, requests.RequestException, psycopg.OperationalError):
                if ready():
                    return
            if _process(started) is None:
                break
            time.sleep(0.2)
        lines = (self.data / f"{name}.log").read_text(errors="replace").splitlines()
        raise StartError(f"{name} did not start; its log ends with:\n  " + "\n  ".join(lines[-8:]))

    def end(self) -> None:
        """End every process, the last one first, and remove the data."""
        for started in reversed(self.started):
            _end(started)
        if self.data != Path():
            shutil.rmtree(self.data, ignore_errors=True)
        self._file.unlink(missing_ok=True)

    def _save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "started": self.started,
            "environment": self.environment,
            "workers": self.workers,
            "data": str(self.data),
        }
        temporary = self._file.with_suffix(".new")
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(state, indent=1))
        temporary.replace(self._file)


def _process(started: Started) -> psutil.Process | None:
    """The process, if it still runs."""
    with suppress(psutil.Error):
        process = psutil.Process(started.pid)
        is_same = abs(process.create_time() - started.created) < 1
        if is_same and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _end(started: Started) -> None:
    """End a process and what it started: politely first, with a signal that it knows."""
    process = _process(started)
    if process is None:
        return
    family = [process, *process.children(recursive=True)]
    # SIGINT makes Postgres break off its connections instead of waiting for them.
    process.send_signal(signal.SIGINT if started.name == "postgres" else signal.SIGTERM)
    _, alive = psutil.wait_procs([process], timeout=20)
    _, alive = psutil.wait_procs(family, timeout=2)
    for each in alive:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(alive, timeout=5)


def up(cluster: Cluster, workers: int, cpus: int) -> None:
    """Start everything, or say what is up already.

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
    cluster.begin(workers)
    try:
        _start_all(cluster, workers, cpus)
    except BaseException:
        logs, kept = cluster.data, Path(f"{cluster.data}-logs")
        shutil.copytree(logs, kept, ignore=lambda folder, names: _all_but_logs(folder, names))
        cluster.end()
        print(f"the logs are in {kept}", file=sys.stderr)
        raise


def _all_but_logs(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(".log")]


def _start_all(cluster: Cluster, workers: int, cpus: int) -> None:
    endpoint = f"http://127.0.0.1:{_port(9000)}"
    dashboard, mlflow = _port(8265), _port(5000)
    cluster.environment = {
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "rehearsal",
        "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(24),
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{mlflow}",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": secrets.token_urlsafe(24),
    }
    with _step("S3"):
        _start_s3(cluster, endpoint)
    with _step("Postgres"):
        store = _start_postgres(cluster)
    with _step("Ray head"):  # MLflow takes as long to start; it does so beside
        _start_mlflow(cluster, mlflow, store)
        gcs = _start_head(cluster, dashboard)
    for number in range(1, workers + 1):
        with _step(f"Ray worker {number}"):
            _start_worker(cluster, number, gcs, cpus)
    with _step("MLflow"):
        url = f"http://127.0.0.1:{mlflow}/health"
        cluster.wait("mlflow", lambda: requests.get(url, timeout=2).ok)


@contextmanager
def _step(what: str) -> Iterator[None]:
    started = time.monotonic()
    print(f"{what} ...", end=" ", flush=True)
    yield
    print(f"up ({time.monotonic() - started:.0f} s)", flush=True)


def _port(preferred: int = 0) -> int:
    """A free port: the usual one if nothing has it."""
    for number in (preferred, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", number))
            return int(probe.getsockname()[1])
    raise AssertionError("port 0 always binds")


def _tool(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def _start_s3(cluster: Cluster, endpoint: str) -> None:
    port = endpoint.rpartition(":")[2]
    cluster.start("s3", [_tool("moto_server"), "-H", "127.0.0.1", "-p", port])
    cluster.wait("s3", lambda: requests.get(endpoint, timeout=2).status_code < 500)
    keys = {name.lower(): cluster.environment[name] for name in _AWS}
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys).create_bucket(
        Bucket=BUCKET
    )


_AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def _start_postgres(cluster: Cluster) -> str:
    """Start Postgres with a database for MLflow; returns its URI, or that of an SQLite file."""
    programs = _postgres_programs()
    if programs is None:
        print("not installed, so MLflow gets SQLite;", end=" ")
        return f"sqlite:///{cluster.data}/mlflow.db"
    user = _postgres_user()
    folder, password = cluster.data / "postgres", secrets.token_urlsafe(24)
    folder.mkdir()
    secret = folder / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    if user is not None:
        for path in (folder, secret):
            os.chown(path, user.pw_uid, user.pw_gid)
    identity: dict[str, Any] = {"cwd": folder}
    if user is not None:
        identity |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data, port = folder / "data", _port()
    subprocess.run(
        [programs / "initdb", "--pgdata", data, "--username=mlflow", f"--pwfile={secret}",
         "--auth=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C"],
        check=True, capture_output=True, **identity,
    )  # fmt: skip
    secret.unlink()
    command = [programs / "postgres", "-D", data, "-p", port, "-k", folder]
    cluster.start("postgres", [*command, "-c", "listen_addresses=127.0.0.1"], **identity)
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


def _postgres_user() -> pwd.struct_passwd | None:
    """Whom Postgres runs as: not root."""
    if os.getuid() != 0:
        return None
    with suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def _start_mlflow(cluster: Cluster, port: int, store: str) -> None:
    settings = {
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow",
        "MLFLOW_AUTH_ADMIN_USERNAME": cluster.environment["MLFLOW_TRACKING_USERNAME"],
        "MLFLOW_AUTH_ADMIN_PASSWORD": cluster.environment["MLFLOW_TRACKING_PASSWORD"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port},localhost:{port}",
        "MLFLOW_PORT": str(port),
        "TMPDIR": str(cluster.data),
    }
    serve = REPOSITORY / "cluster" / "mlflow" / "serve"
    cluster.start("mlflow", [sys.executable, serve], environment=settings, cwd=cluster.data)


def _start_head(cluster: Cluster, dashboard: int) -> int:
    """Start the head; returns the port of its control store."""
    gcs = _port(6379)
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


def _start_worker(cluster: Cluster, number: int, gcs: int, cpus: int) -> None:
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
    log = cluster.start(
        name, [_tool("ray"), "start", *common, *options], environment={"PATH": path}
    )
    cluster.wait(name, lambda: "Ray runtime started" in log.read_text(errors="replace"))


def exports(cluster: Cluster) -> str:
    """Shell lines that give a client the cluster's addresses and keys.

    Raises:
        StartError: no cluster is up.
    """
    if not cluster.is_up:
        raise StartError("no cluster is up; say cluster/local up --workers 2")
    values = cluster.environment.items()
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values)


def main() -> int:
    """Run `cluster/local`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="cluster/local", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    start = verbs.add_parser("up", help="start the cluster")
    start.add_argument("--workers", type=_positive, default=2, help="Ray worker nodes (2)")
    start.add_argument("--cpus", type=_positive, help="CPUs of a worker (its share of them)")
    verbs.add_parser("env", help='print exports: eval "$(cluster/local env)"')
    verbs.add_parser("down", help="end what up started")
    for verb in verbs.choices.values():
        verb.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "cluster")
    arguments = parser.parse_args()
    cluster = Cluster(arguments.folder)
    try:
        if arguments.verb == "up":
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
            up(cluster, arguments.workers, arguments.cpus or max(1, cores // arguments.workers))
            print('now say: eval "$(cluster/local env)"')
        elif arguments.verb == "env":
            print(exports(cluster))
        else:
            was_up = cluster.is_up
            cluster.end()
            print("down; its data is gone" if was_up else "nothing is up")
    except StartError as error:
        print(f"cluster/local: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cluster/local: stopped", file=sys.stderr)
        return 130
    return 0


def _positive(word: str) -> int:
    number = int(word)
    if not 1 <= number <= 200:
        raise argparse.ArgumentTypeError("expected 1 to 200")
    return number


if __name__ == "__main__":
    sys.exit(main())
