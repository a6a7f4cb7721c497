"""`facevae import-facenet` for `ray job submit -- python jobs/import_facenet.py ...`."""

import sys

from facevae.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("import-facenet", sys.argv[1:]))
