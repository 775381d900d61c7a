"""The files of a project's SoftHSM token."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from string import Template

from signer.private_files import write_whole


CONF_VARIABLE = "SOFTHSM2_CONF"


class Layout:
    """The files under ``<home>/softhsm``, and those of a token in preparation."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.conf = root / "softhsm2.conf"  # Points SoftHSM to ``tokens``.
        self.tokens = root / "tokens"  # A folder each.
        # The PINs.  The security officer's can reset the user PIN, but cannot sign.
        self.pin = root / "pin"
        self.so_pin = root / "so-pin"
        # The root of another layout, where a new token is completed.
        self.staging = root / "staging"
        self.lib = root / "lib"  # The downloaded module, unless the system has one.

    @classmethod
    def of(cls, home: Path) -> "Layout":
        """Return the layout in the project's *home*."""
        return cls(home.absolute() / "softhsm")

    def prepare(self) -> None:
        """Create the folders and the configuration file; keep what is correct."""
        for folder in (self.root, self.tokens):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        template = files("softhsm").joinpath("softhsm2.conf.template").read_text()
        conf = Template(template).substitute(tokens=self.tokens)
        if not self.conf.exists() or self.conf.read_text() != conf:
            write_whole(self.conf, conf.encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Prevent other processes from changing the token at the same time."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The kernel releases the lock when the process ends, also by SIGKILL.
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def use_project_conf(home: Path) -> Path:
    """
    Point SoftHSM to the project's token, unless ``SOFTHSM2_CONF`` is set.

    An empty variable counts as unset, as it does for ``Settings``: the file that
    ``hotwallet init`` writes has every variable.

    SoftHSM reads ``SOFTHSM2_CONF`` with C's ``getenv`` when it is initialised;
    ``os.environ`` writes through to the C environment.  The result is the path of the
    configuration file in use.
    """
    if not os.environ.get(CONF_VARIABLE, "").strip():
        os.environ[CONF_VARIABLE] = str(Layout.of(home).conf)
    return Path(os.environ[CONF_VARIABLE])
