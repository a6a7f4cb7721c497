"""CPU, memory, disk, network and GPU use of the driver's node, beside the run's other metrics."""

import contextlib
import time
from collections.abc import Iterator

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from facevae.tracking.runs import Run


@contextlib.contextmanager
def system_metrics(run: Run) -> Iterator[None]:
    """Log this node's use of its resources for as long as the block lasts.

    Their steps are sampling intervals since the run began.
    """
    monitor = _Monitor(run)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


class _Monitor(SystemMetricsMonitor):  # type: ignore[misc]
    """MLflow's measurements without its delivery, which ends when the server is away."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.id.run_id, tracking_uri=run.id.uri)
        self._run = run

    def monitor(self) -> None:
        """Measure until told to stop."""
        while not self._shutdown_event.is_set():
            for _ in range(self.samples_before_logging):
                self.collect_metrics()
                if self._shutdown_event.wait(self.sampling_interval):
                    return
            self.publish_metrics(self.aggregate_metrics())

    def publish_metrics(self, metrics: dict[str, float]) -> None:
        """Give a measurement to the run's delivery."""
        prefix = self._metrics_prefix + (f"{self.node_id}/" if self.node_id else "")
        # The time, not a count, so that a run that goes on needs no question to the store.
        step = int((time.time() - self._run.started) / self.sampling_interval)
        values = {prefix + key: value for key, value in metrics.items()}
        self._run.metrics(step, values, quiet=True)
        for monitor in self.monitors:
            monitor.clear_metrics()
