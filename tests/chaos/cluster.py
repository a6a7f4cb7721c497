"""The rehearsal cluster with a proxy before its S3 server and a small disk for temporary files."""

from pathlib import Path

from processes import Cluster
from services import up

from tests.chaos.disk import Disk
from tests.chaos.pipeline import REPOSITORY
from tests.chaos.proxy import Proxy

WORKERS, CPUS = 2, 2
RAY = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
}
"""so that a dead node is found in seconds"""


class ChaosCluster:
    """A rehearsal cluster that can be hit, and what hits it."""

    def __init__(self, folder: Path) -> None:
        """Start it; its state is kept in the folder."""
        self.cluster = Cluster(folder)
        self.disk = Disk(folder / "disk")
        try:
            up(self.cluster, WORKERS, CPUS, self._told)
            self._move_artifacts()
        except BaseException:
            self.end()
            raise

    @property
    def gcs(self) -> str:
        """The address that drivers attach to."""
        options = self.cluster.part("worker-1").command
        return next(word.partition("=")[2] for word in options if word.startswith("--address="))

    def _told(self, environment: dict[str, str]) -> dict[str, str]:
        self.s3 = environment["AWS_ENDPOINT_URL"]
        self.proxy = Proxy(self.s3)
        return environment | {
            **RAY,
            "AWS_ENDPOINT_URL": self.proxy.address,
            "PYTHONPATH": str(REPOSITORY),
            "TMPDIR": str(self.disk.folder),
        }

    def _move_artifacts(self) -> None:
        """Have Ray Train's folders on the small disk, since checkpoints are made there."""
        session = (self.cluster.data / "ray" / "session_latest").resolve()
        place = self.disk.folder / "artifacts"
        place.mkdir()
        (session / "artifacts").symlink_to(place)

    def end(self) -> None:
        """End all processes; nothing is left."""
        self.cluster.end()
        self.disk.end()
        if hasattr(self, "proxy"):
            self.proxy.close()
