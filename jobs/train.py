"""`facevae train` for `ray job submit --working-dir . -- python jobs/train.py ...`."""

import sys

from facevae.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("train", sys.argv[1:]))
