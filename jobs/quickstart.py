"""`facevae quickstart` for `ray job submit --working-dir . -- python jobs/quickstart.py ...`."""

import sys

from facevae.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("quickstart", sys.argv[1:]))
