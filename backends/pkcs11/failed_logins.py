"""Remembers failed logins to a token, in a process and its forks: tokens lock."""

import fcntl
import hmac
import mmap
import secrets
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from signer.errors import PINRefusedError


_WAIT_SECONDS = 2.0  # A login that hangs must not keep others from theirs.
_POLL_SECONDS = 0.01

_PAUSE = struct.Struct("dd")
_DIGEST_SIZE = 32


class FailedLogins:
    """
    The last PIN that a token refused, and the pause after a login that failed.

    Forks share both, in both directions.  So a worker does not try a PIN that another
    worker tried: tokens lock after a few wrong PINs.  Of the PIN there is a keyed
    digest, and a corrected one counts as another.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._digest = mmap.mmap(-1, _DIGEST_SIZE)
        self._pause = mmap.mmap(-1, _PAUSE.size)
        self._began = mmap.mmap(-1, 1)

    @property
    def has_pin(self) -> bool:
        return any(self._digest[:])

    @property
    def pause(self) -> tuple[float, float]:
        """How long the last pause is, and until when; 0 without one."""
        seconds, until = _PAUSE.unpack(self._pause[:])
        return seconds, until

    @pause.setter
    def pause(self, value: tuple[float, float]) -> None:
        self._pause[:] = _PAUSE.pack(*value)

    def require_another(self, pin: str) -> None:
        """Raise ``PINRefusedError`` if *pin* is the one that was refused."""
        if hmac.compare_digest(self._digest[:], self._of(pin)):
            raise PINRefusedError(
                "the token does not accept the PIN: correct it, or restart to try the"
                " same PIN again"
            )

    def remember(self, pin: str) -> None:
        self._digest[:] = self._of(pin)

    @contextmanager
    def trying(self, pin: str, module: str) -> Iterator[bool]:
        """
        Log in within, one process after the other, so that each learns of a refusal.

        It yields whether the process before was killed within, so that nobody knows
        what the token answered.

        Raises:
            PINRefusedError: As ``require_another``.
        """
        # The kernel releases the lock when the process ends, also by SIGKILL.
        with ExitStack() as opened:
            is_alone = False
            with suppress(OSError):  # The module's file was replaced.
                file = opened.enter_context(Path(module).open("rb"))
                is_alone = _lock(file.fileno())
            self.require_another(pin)
            # Only who has the lock writes: another process may still log in.
            was_killed = is_alone and self._began[0] == 1
            self._began[0] |= is_alone
            try:
                yield was_killed
            finally:
                if is_alone:
                    self._began[0] = 0

    def _of(self, pin: str) -> bytes:
        return hmac.digest(self._key, pin.encode(), "sha256")


def _lock(file: int) -> bool:
    """Return whether this process has the lock, in time."""
    end = time.monotonic() + _WAIT_SECONDS
    with suppress(OSError):  # A file system without locks.
        while time.monotonic() < end:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            time.sleep(_POLL_SECONDS)
    return False
