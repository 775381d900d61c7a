"""Which files a project's SoftHSM has."""

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
    * ``pin`` and ``so-pin`` are the token's, readable by their owner only;
    * ``staging/`` is where a new token is made, before it is moved in;
    * ``lib/`` holds the module, where the system had none.
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
        """Where the tokens live, a folder each."""
        return self.root / "tokens"

    @property
    def pin(self) -> Path:
        """The user's PIN."""
        return self.root / "pin"

    @property
    def so_pin(self) -> Path:
        """The security officer's PIN: it can reset the user's, and not sign."""
        return self.root / "so-pin"

    @property
    def staging(self) -> Path:
        """A layout's root of its own, for a token that is not complete yet."""
        return self.root / "staging"

    @property
    def lib(self) -> Path:
        """The module, if it was fetched."""
        return self.root / "lib"

    def prepare(self) -> None:
        """Make the folders and the configuration; whatever is right stays."""
        for folder in (self.root, self.tokens):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        template = files("softhsm").joinpath("softhsm2.conf.template").read_text()
        conf = Template(template).substitute(tokens=self.tokens)
        if not self.conf.exists() or self.conf.read_text() != conf:
            write_whole(self.conf, conf.encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from provisioning at the same time."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The kernel gives the lock back when its holder dies, however it dies.
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def environment(home: Path) -> Path:
    """
    Point SoftHSM to the project's token, unless it points elsewhere already.

    SoftHSM asks C's ``getenv`` for ``SOFTHSM2_CONF`` whenever it is initialised,
    and ``os.environ`` writes through to it.

    Returns:
        The configuration in force.
    """
    conf = os.environ.setdefault(CONF_VARIABLE, str(Layout.of(home).conf))
    return Path(conf)
