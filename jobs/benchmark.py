"""`facevae benchmark` for `ray job submit --working-dir . -- python jobs/benchmark.py ...`."""

import sys

from facevae.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("benchmark", sys.argv[1:]))
