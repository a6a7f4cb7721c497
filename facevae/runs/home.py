"""A home and a name for a user whom the system does not know, such as Kubernetes' runAsUser."""

import getpass
import os
import tempfile
from pathlib import Path

from facevae.errors import UserError


def provide_home() -> None:
    """Set HOME and USER where the system knows neither.

    Ray Train and MLflow cannot be imported without a home, Ray keeps the token of its ports there,
    and torch names its caches after the user.

    Raises:
        UserError: another user has the folder that would be the home.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  (that of pathlib raises if there is none)
    is_root = home == Path("/")  # what a container without a home has
    if home.is_absolute() and home.is_dir() and not (is_root and not os.access(home, os.W_OK)):
        return
    folder = Path(tempfile.gettempdir()) / f"facevae-home-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise UserError(f"this user has no home, and {folder} is another user's: set HOME")
    os.environ["HOME"] = str(folder)
