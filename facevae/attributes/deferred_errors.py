"""A file for HDF5 to write to, so that a full disk does not end the process."""

import io
from collections.abc import Callable
from typing import Any


class DeferredErrors(io.FileIO):
    """A file that keeps its first failure to write, and drops what is written after it.

    A write that fails while HDF5 closes a file, as on a full disk, leaves HDF5 in a state in which
    it later ends the whole process (h5py 3.16, HDF5 2.0).
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write, or drop what comes after a failure; returns the bytes taken."""
        rest = memoryview(data).cast("B")
        while rest and self.error is None:
            rest = rest[self._attempt(super().write, rest) :]
        return memoryview(data).nbytes

    def truncate(self, size: int | None = None) -> int:
        """Cut the file; returns its size."""
        return self._attempt(super().truncate, size)

    def _attempt(self, act: Callable[[Any], int], argument: Any) -> int:
        try:
            return act(argument)
        except OSError as error:
            self.error = self.error or error
            return 0

    def check(self) -> None:
        """Raise the failure, if there was one."""
        if self.error:
            raise self.error
