"""`ray job submit` against a head with token authentication, as the README shows it."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def submit(environment, *words: str) -> subprocess.CompletedProcess[str]:
    ray = Path(sys.executable).with_name("ray")
    return subprocess.run(
        [ray, "job", "submit", "--working-dir", str(REPOSITORY), "--", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def test_a_training_job_is_submitted_and_succeeds(head, tmp_path):
    output = tmp_path / "run"
    job = submit(
        head, sys.executable, "jobs/train.py", "--config", "configs/quickstart.yaml",
        "--output", str(output), "--training.steps", "8", "--training.warmup_steps", "2",
        "--drawn.count", "400",
    )  # fmt: skip
    assert job.returncode == 0, job.stdout[-3000:] + job.stderr[-3000:]
    assert (output / "model" / "model.safetensors").is_file()
    refused = submit(
        head | {"RAY_AUTH_TOKEN": "another-token-that-is-not-the-heads"}, sys.executable, "-V"
    )
    assert refused.returncode != 0
