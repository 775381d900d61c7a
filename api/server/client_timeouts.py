"""
A socket that waits for a slow client for so long, and no longer.

gunicorn's threads read and write without a deadline, so that a client who sends a byte
now and then, or takes none, would keep a thread for good.  Only the time that is spent
waiting counts: how long the application thinks is not the client's fault.
"""

import contextlib
import errno
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import structlog

from api.http.body import SlowClientError


if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


SECONDS = 10.0
"""How long a request is waited for, in all its pieces together; its answer too."""

# As gunicorn closes (RFC 9112, section 9.6).
_LEAVE_SECONDS = 2.0
_LEAVE_BYTES = 64 * 1024

_log = structlog.get_logger("api.gunicorn")


class PatientSocket(socket.socket):
    """
    The server's end of a connection.

    Blocking reads raise ``SlowClientError`` when ``seconds`` are used up, blocking
    writes ``BrokenPipeError``, until ``renew`` is called.  Who set a timeout has a
    deadline already.  ``is_late`` is true once a request did not arrive: nothing that
    follows can be told from its rest.
    """

    def __init__(self, connection: socket.socket, seconds: float = SECONDS) -> None:
        """Take the place of *connection*, which is closed then."""
        super().__init__(fileno=connection.detach())
        self._seconds = seconds
        self._left = False
        self.is_late = False
        self.renew()

    def renew(self) -> None:
        """Begin to wait for another request."""
        self._reading = self._writing = self._seconds

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """
        Return what the client sent; nothing once it was taken leave of.

        Raises:
            SlowClientError: It took too long.
        """
        if self._left:
            return b""
        if self.gettimeout() is not None:
            return super().recv(bufsize, flags)
        began = time.monotonic()
        try:
            with self._within(self._reading):
                return super().recv(bufsize, flags)
        except TimeoutError:
            self.is_late = True
            raise SlowClientError("the request did not arrive in time") from None
        finally:
            self._reading -= time.monotonic() - began

    def peek(self, most: int) -> bytes:
        """Return up to *most* bytes of what has arrived, and leave it to be read."""
        try:
            return super().recv(most, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return b""  # Nothing has, or nothing will.

    def sendall(self, data: "ReadableBuffer", flags: int = 0, /) -> None:
        """
        Send all of *data*.

        Raises:
            BrokenPipeError: The client took too long to take it; it was told nothing.
        """
        if self.gettimeout() is not None:
            super().sendall(data, flags)
            return
        with self._writes():
            super().sendall(data, flags)

    def send(self, data: "ReadableBuffer", flags: int = 0, /) -> int:
        """
        Send some of *data*, and return how much: gunicorn says ``100 Continue`` so.

        Raises:
            BrokenPipeError: As ``sendall``.
        """
        if self.gettimeout() is not None:
            return super().send(data, flags)
        with self._writes():
            return super().send(data, flags)

    def leave(self) -> None:
        """
        Say that nothing follows, and give the client a moment to go.

        Without that, what it still sends would make the kernel throw its answer away.
        """
        until, taken = time.monotonic() + _LEAVE_SECONDS, 0
        with contextlib.suppress(OSError):  # It is gone, or does not go.
            self.shutdown(socket.SHUT_WR)
            while taken < _LEAVE_BYTES and (rest := until - time.monotonic()) > 0:
                self.settimeout(rest)
                if not (piece := super().recv(4096)):
                    break
                taken += len(piece)
        self._left = True

    @contextlib.contextmanager
    def _writes(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            with self._within(self._writing):
                yield
        except TimeoutError:
            _log.warning("answer-not-taken", seconds=self._seconds)
            raise BrokenPipeError(errno.EPIPE, "the client takes no answer") from None
        finally:
            self._writing -= time.monotonic() - began

    @contextlib.contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        if seconds <= 0:
            raise TimeoutError
        self.settimeout(seconds)
        try:
            yield
        finally:
            self.settimeout(None)
