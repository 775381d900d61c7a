"""The files of a project's SoftHSM token."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from signer.private_files import write_whole


CONF_VARIABLE = "SOFTHSM2_CONF"


@dataclass(frozen=True, slots=True)
class Layout:
    """
    The files under ``<home>/softhsm``.

    * ``softhsm2.conf`` points SoftHSM to ``tokens/``;
    * ``pin`` and ``so-pin`` hold the token's PINs, readable by their owner only;
    * ``staging/`` is where a new token is created before it is moved to ``tokens/``;
    * ``lib/`` holds the module, unless the system has it.
    """

    root: Path

    @classmethod
    def of(cls, home: Path) -> "Layout":
        """Return the layout in the project's *home*."""
        return cls(home.absolute() / "softhsm")

    @property
    def conf(self) -> Path:
        """SoftHSM's configuration."""
        return self.root / "softhsm2.conf"

    @property
    def tokens(self) -> Path:
        """The tokens, a folder each."""
        return self.root / "tokens"

    @property
    def pin(self) -> Path:
        """The user PIN."""
        return self.root / "pin"

    @property
    def so_pin(self) -> Path:
        """The security officer's PIN: it can reset the user PIN, but cannot sign."""
        return self.root / "so-pin"

    @property
    def staging(self) -> Path:
        """The root of a separate layout, for a token that is not complete yet."""
        return self.root / "staging"

    @property
    def lib(self) -> Path:
        """The downloaded module."""
        return self.root / "lib"

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

    SoftHSM reads ``SOFTHSM2_CONF`` with C's ``getenv`` when it is initialised;
    ``os.environ`` writes through to the C environment.

    Returns:
        The path of the configuration file in use.
    """
    conf = os.environ.setdefault(CONF_VARIABLE, str(Layout.of(home).conf))
    return Path(conf)
