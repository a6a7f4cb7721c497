"""What an earlier try of a run has left in the store, so that nothing is logged twice."""

import re
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Metric

IMAGES = "images"
_IMAGE_NAME = re.compile(rf"{IMAGES}/(?P<base>(?P<key>.+)\+step\+(?P<step>\d+)\+.+?)(?P<end>\..+)")
THUMBNAIL, FULL = "+compressed.webp", ".png"


class Stored(NamedTuple):
    """The points and the images that the store has.

    The largest step of each metric tells all its points: they are delivered in the order of their
    steps, and a request is stored whole or not at all. So what the store has of a metric is the
    beginning of what was made, and what it lacks has larger steps. What is made anew after a
    resume up to that step is there already.
    """

    steps: dict[str, int]
    """the largest step of each metric"""
    image_names: dict[tuple[str, int], str]
    """the name, without its end, of each image by key and step"""
    images: set[tuple[str, int]]
    """the images that are complete"""

    def lacks(self, metric: Metric) -> bool:
        """Whether a point is not there."""
        return bool(metric.step > self.steps.get(metric.key, -1))


NOTHING = Stored({}, {}, set())


def read_stored(client: MlflowClient, run_id: str) -> Stored:
    """Ask the store what it has of a run."""
    # Only these entities tell the step; `data.metrics` has values alone, and the histories of all
    # metrics would be a large answer.
    latest = client.get_run(run_id).data._metric_objs
    names, complete = {}, set()
    for file in client.list_artifacts(run_id, IMAGES):
        path = file.path.replace(THUMBNAIL, ".webp")
        if found := _IMAGE_NAME.fullmatch(path):
            image = (found["key"], int(found["step"]))
            if found["end"] == FULL or image not in names:
                names[image] = found["base"]
            if found["end"] == FULL:  # it is sent last
                complete.add(image)
    return Stored({metric.key: int(metric.step) for metric in latest}, names, complete)
