"""A small disk of its own that can be full: a tmpfs, which root may mount."""

import os
import shutil
import subprocess
from pathlib import Path

MEGABYTES = 256
FILLER = "filler"


class Disk:
    """A tmpfs at a folder; where none can be mounted, the folder, and the reason."""

    def __init__(self, folder: Path) -> None:
        """Mount it."""
        self.folder = folder
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m,mode=1777", "chaos", str(folder)]
        self.reason = ""
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                self.reason = done.stderr.strip() or f"mount ended with {done.returncode}"
        except OSError as error:
            self.reason = str(error)

    def fill(self) -> None:
        """Leave no space."""
        handle = os.open(self.folder / FILLER, os.O_CREAT | os.O_WRONLY)
        try:
            space = os.statvfs(self.folder)
            os.posix_fallocate(handle, 0, space.f_bavail * space.f_frsize)
        finally:
            os.close(handle)

    def free(self) -> None:
        """Give the space back."""
        (self.folder / FILLER).unlink(missing_ok=True)

    def clean(self) -> None:
        """Remove what killed processes have left."""
        for path in self.folder.iterdir():
            if path.is_file():
                path.unlink(missing_ok=True)

    def end(self) -> None:
        """Unmount it."""
        if not self.reason:
            subprocess.run(["umount", "-l", self.folder], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
