"""
A socket with deadlines for slow clients.

gunicorn's threads read and write without a deadline, so a client that sends a byte now
and then, or does not read its answer, would occupy a thread without end.  Only the time
spent waiting for the client counts, not the time that the application takes.
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
"""How long to wait for all parts of a request together, and for its answer."""

# A lingering close, as gunicorn does it (RFC 9112, section 9.6).
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 64 * 1024

_log = structlog.get_logger("api.gunicorn")


class DeadlineSocket(socket.socket):
    """
    The server's end of a connection, with a deadline for blocking reads and writes.

    Reads raise ``SlowClientError`` and writes ``BrokenPipeError`` once they have waited
    ``seconds`` in total; ``reset_deadline`` starts over.  Non-blocking calls and calls
    with a timeout are unchanged.  ``is_late`` becomes true when a request did not
    arrive in time: the bytes that follow may be the rest of it.
    """

    def __init__(self, connection: socket.socket, seconds: float = SECONDS) -> None:
        """Take over the file descriptor of *connection*, which is detached."""
        super().__init__(fileno=connection.detach())
        self._seconds = seconds
        self._is_closing = False
        self._pieces: list[bytes] | None = None
        self.is_late = False
        self.reset_deadline()

    def reset_deadline(self) -> None:
        """Start over, for another request."""
        self._seconds_left = {"read": self._seconds, "write": self._seconds}

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Return what the client sent; nothing after ``linger``."""
        if self._is_closing:
            return b""
        if self.gettimeout() is not None:
            return super().recv(bufsize, flags)
        try:
            if self._seconds_left["read"] > 0:
                # Usually all has arrived, so that there is nothing to wait for.
                with contextlib.suppress(BlockingIOError):
                    return super().recv(bufsize, flags | socket.MSG_DONTWAIT)
            with self._deadline("read"):
                return super().recv(bufsize, flags)
        except TimeoutError:
            self.is_late = True
            raise SlowClientError("the request did not arrive in time") from None

    def peek(self, max_bytes: int) -> bytes:
        """Return up to *max_bytes* of what has arrived, without consuming it."""
        try:
            return super().recv(max_bytes, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return b""  # Nothing has arrived, or the connection is broken.

    def sendall(self, data: "ReadableBuffer", flags: int = 0, /) -> None:
        """Send all of *data*, or keep it in ``joined_sends``."""
        if self._pieces is not None:
            self._pieces.append(bytes(data))
            return
        left = memoryview(data)
        if self.gettimeout() is None and self._seconds_left["write"] > 0:
            with contextlib.suppress(BlockingIOError):
                left = left[super().send(left, flags | socket.MSG_DONTWAIT) :]
        if left:
            with self._write_deadline():
                super().sendall(left, flags)

    @contextlib.contextmanager
    def joined_sends(self) -> Iterator[None]:
        """Send in one piece what the context sends."""
        pieces = self._pieces = []
        try:
            yield
        finally:
            self._pieces = None
        self.sendall(b"".join(pieces))

    def send(self, data: "ReadableBuffer", flags: int = 0, /) -> int:
        """Send some of *data*; return how much.  gunicorn sends ``100 Continue`` so."""
        with self._write_deadline():
            return super().send(data, flags)

    def linger(self) -> None:
        """
        End the answer, then discard what the client still sends, for up to 2 s.

        Closing a socket with unread data makes the kernel reset the connection, and the
        client might lose the answer.
        """
        end, received = time.monotonic() + _LINGER_SECONDS, 0
        with contextlib.suppress(OSError):  # The client has closed, or is too slow.
            self.shutdown(socket.SHUT_WR)
            while received < _LINGER_BYTES and (left := end - time.monotonic()) > 0:
                self.settimeout(left)
                if not (data := super().recv(4096)):
                    break
                received += len(data)
        self._is_closing = True

    @contextlib.contextmanager
    def _write_deadline(self) -> Iterator[None]:
        if self.gettimeout() is not None:
            yield
            return
        try:
            with self._deadline("write"):
                yield
        except TimeoutError:
            _log.warning("answer-not-taken", seconds=self._seconds)
            raise BrokenPipeError(
                errno.EPIPE, "the client did not read the answer in time"
            ) from None

    @contextlib.contextmanager
    def _deadline(self, kind: str) -> Iterator[None]:
        if self._seconds_left[kind] <= 0:
            raise TimeoutError
        self.settimeout(self._seconds_left[kind])
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds_left[kind] -= time.monotonic() - began
            self.settimeout(None)
