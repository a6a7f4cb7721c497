"""`facevae benchmark` for `ray job submit --working-dir . -- python jobs/benchmark.py ...`."""

import sys

from facevae.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("benchmark", sys.argv[1:]))
