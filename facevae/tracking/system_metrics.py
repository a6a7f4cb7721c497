"""CPU, memory, disk, network and GPU use of the driver's node, beside the run's other metrics."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from facevae.tracking.store import RunId
from facevae.tracking.sync import SYSTEM


@contextlib.contextmanager
def system_metrics(
    run: RunId, started: float, log: Callable[[int, dict[str, float]], None]
) -> Iterator[None]:
    """Log this node's use of its resources for as long as the block lasts.

    Args:
        run: the run.
        started: when it began, in seconds since 1970; steps are sampling intervals since then.
        log: takes a step and its metrics.
    """
    # MLflow's measurements without its thread, which ends when the server is away.
    monitor = SystemMetricsMonitor(run.run_id, tracking_uri=run.uri)
    prefix = SYSTEM + (f"{monitor.node_id}/" if monitor.node_id else "")
    ended = threading.Event()

    def measure() -> None:
        samples = 0
        while not ended.is_set():
            monitor.collect_metrics()
            samples += 1
            if ended.wait(monitor.sampling_interval) or samples % monitor.samples_before_logging:
                continue
            values = {prefix + key: value for key, value in monitor.aggregate_metrics().items()}
            for each in monitor.monitors:
                each.clear_metrics()
            # The time, not a count, so that a run that goes on needs no question to the store.
            log(int((time.time() - started) / monitor.sampling_interval), values)

    thread = threading.Thread(target=measure, name="system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
