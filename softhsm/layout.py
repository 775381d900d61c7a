"""The files of a project's SoftHSM token."""

import fcntl
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from string import Template

from signer.config.settings import Settings
from signer.errors import AccessDeniedError, ConfigurationError, Refusal
from signer.private_files import create_once, is_private, write_whole


CONF_VARIABLE = "SOFTHSM2_CONF"

_INHERITED = ("PATH", "HOME", "LANG", "TZ")
"""The variables that a program of ``pin-source`` gets."""


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
        template = files(__package__).joinpath("softhsm2.conf.template").read_text()
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


_PIN_BYTES = 16
_PROGRAM_SECONDS = 5


def pin_source(settings: Settings) -> Callable[[], str]:
    """
    Return a function that returns the user PIN.

    The PIN is ``PKCS11_PIN``, else in the file ``PKCS11_PIN_FILE``, else from the file
    or program that is the ``pin-source`` of the token's URI, else in the file that
    ``hotwallet softhsm init`` wrote.  It is read when the token is opened.
    """
    pin = settings.pkcs11_pin
    if pin is not None:
        return pin.get_secret_value
    # Here, because commands that open no token must not load python-pkcs11.
    from backends.pkcs11.token_uri import TokenName  # noqa: PLC0415

    token = TokenName.parse(settings.pkcs11_token_label)
    program = token.pin_program
    if program is not None and settings.pkcs11_pin_file is None:
        return lambda: ask_program(program)
    path = settings.pkcs11_pin_file or token.pin_file or Layout.of(settings.home).pin
    return lambda: read_pin(path)


def read_pin(path: Path) -> str:
    """Return the PIN in the file at *path*, without surrounding white space."""
    try:
        with path.open("rb") as file:
            text = file.read().strip()
            private = is_private(file.fileno())
    except OSError:
        raise AccessDeniedError("the PIN file cannot be read") from None
    if not text:
        raise AccessDeniedError("the PIN file is empty: write the PIN into it")
    if not private:
        raise AccessDeniedError("other users may access the PIN file: chmod 600 it")
    try:
        return text.decode()
    except UnicodeError:  # Its message would quote the PIN.
        raise AccessDeniedError("the PIN file is not text") from None


def ask_program(program: Path) -> str:
    """Return the PIN that *program* prints, without surrounding white space."""
    try:
        done = subprocess.run(  # noqa: S603  The operator's own program.
            [program],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # It would reach the log.
            # Without the service's settings, some of which are secrets.
            env={name: os.environ[name] for name in _INHERITED if name in os.environ},
            timeout=_PROGRAM_SECONDS,
        )
        pin = done.stdout.strip().decode() if done.returncode == 0 else ""
    except (OSError, UnicodeError, subprocess.TimeoutExpired):
        pin = ""
    # Not in the block above: the last two errors quote what it printed.
    if not pin:
        raise AccessDeniedError(
            "the program of pin-source prints no PIN, or fails: run it by hand"
        )
    return pin


def ensure_pin(path: Path) -> str:
    """Return the PIN in the file at *path*, which is created with a random one."""
    create_once(path, lambda: secrets.token_hex(_PIN_BYTES).encode() + b"\n")
    return read_pin(path)


_OBJECT = "token.object"
_COPY = "token.object.copy"

_ATTEMPTS = 20
_PAUSE_SECONDS = 0.01


def back_up(tokens: Path) -> None:
    """Copy each ``token.object`` beside it, unless there is a copy."""
    for token in _folders(tokens):
        if not (token / _COPY).exists():
            content = (token / _OBJECT).read_bytes()
            if content:
                write_whole(token / _COPY, content)


def restore_copies(layout: Layout) -> None:
    """
    Replace empty ``token.object`` files by their copies.

    If another process has truncated the file and is slow to write it, it writes to the
    unlinked file, and nothing is lost.

    Raises:
        ConfigurationError: A file is empty and has no copy (``softhsm-damaged``).
    """
    for token in _folders(layout.tokens):
        if not _stays_empty(token / _OBJECT):
            continue
        if not (token / _COPY).exists():
            raise ConfigurationError(
                Refusal(
                    "softhsm-damaged",
                    "a token's file is empty, and has no copy: restore the token from"
                    " a backup, or delete it and its key permanently",
                )
            )
        write_whole(token / _OBJECT, (token / _COPY).read_bytes())


def _folders(tokens: Path) -> Iterator[Path]:
    if tokens.is_dir():
        yield from (entry for entry in tokens.iterdir() if entry.is_dir())


def _stays_empty(path: Path) -> bool:
    for _ in range(_ATTEMPTS):
        if path.exists() and path.stat().st_size:
            return False
        time.sleep(_PAUSE_SECONDS)
    return True
