"""Remembers the PIN that a token refused, so that no process tries it again."""

import fcntl
import hmac
import mmap
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from signer.errors import AccessDeniedError


_WAIT_SECONDS = 2.0  # A login that hangs must not keep others from theirs.
_POLL_SECONDS = 0.01


class RefusedPIN:
    """
    The last PIN that a token refused.  Forks share it, in both directions.

    So a worker does not try a PIN that another worker tried: tokens lock after a few
    wrong PINs.  It is a keyed digest, so that a corrected PIN counts as another one.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._digest = mmap.mmap(-1, 32)

    @property
    def exists(self) -> bool:
        return any(self._digest[:])

    def require_another(self, pin: str) -> None:
        """Raise ``AccessDeniedError`` if *pin* is the one that was refused."""
        if hmac.compare_digest(self._digest[:], self._of(pin)):
            raise AccessDeniedError(
                "the token does not accept the PIN: correct it, or restart to try the"
                " same PIN again"
            )

    def remember(self, pin: str) -> None:
        self._digest[:] = self._of(pin)

    @contextmanager
    def trying(self, pin: str, module: str) -> Iterator[None]:
        """
        Log in within, one process after the other, so that each learns of a refusal.

        Raises:
            AccessDeniedError: As ``require_another``.
        """
        # The kernel releases the lock when the process ends, also by SIGKILL.
        with Path(module).open("rb") as file:
            _lock(file.fileno())
            self.require_another(pin)
            yield

    def _of(self, pin: str) -> bytes:
        return hmac.digest(self._key, pin.encode(), "sha256")


def _lock(file: int) -> None:
    end = time.monotonic() + _WAIT_SECONDS
    with suppress(OSError):  # A file system without locks.
        while time.monotonic() < end:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(_POLL_SECONDS)


OF_SERVICE = RefusedPIN()
"""For the token of the settings: gunicorn's master makes it before it forks."""
