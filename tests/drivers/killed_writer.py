"""A process that is killed while it writes: `killed_writer.py KIND TARGET [KIND TARGET ...]`.

KIND is a function of `facevae.runs.storage`: atomic_file or atomic_folder.
"""

import os
import signal
import sys
from contextlib import ExitStack

from facevae.runs import storage

with ExitStack() as writers:
    for kind, target in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        path = writers.enter_context(getattr(storage, kind)(target))
        (path / "model.json" if path.is_dir() else path).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
