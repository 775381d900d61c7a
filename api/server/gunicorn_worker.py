"""
gunicorn's worker and logger, adapted to this service.

Malformed HTTP requests never reach the application, so the worker answers them with
problem documents itself.  It has deadlines for slow clients
(``api/server/gunicorn_worker.py``), but many slow clients can still occupy all threads.
Production therefore needs a proxy in front.
"""

import contextlib
import errno
import mmap
import os
import re
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog
from gunicorn import glogging, util  # type: ignore[import-untyped]
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.http import errors, wsgi  # type: ignore[import-untyped]
from gunicorn.http.errors import InvalidHeader, InvalidRequestLine  # type: ignore[import-untyped]
from gunicorn.workers import gthread  # type: ignore[import-untyped]

from api.http.body import SlowClientError
from api.http.middleware import SECURITY_HEADERS
from api.http.problems import MEDIA_TYPE, Problem, problem_of, problem_of_status
from api.logs import configure
from api.request_context import new_request_id
from api.server.config_check import serving
from api.server.turns import Queue, TokenTenants, Turns, read_token
from api.uncaught import watch_uncaught
from signer.config.settings import Settings
from signer.errors import ConfigurationError, RateLimitedError
from signer.startup.guard import EXIT_STATUS


if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


# The headers that the service reads and that have one value.  gunicorn refuses repeated
# lengths, hosts and content types.
_SINGLE = frozenset(
    {"AUTHORIZATION", "CONTENT-ENCODING", "IDEMPOTENCY-KEY", "X-REQUEST-ID"}
)

# No empty segment, no dot segment, and no percent-encoding: no route needs them.
_SEGMENT = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._~:-]+"
_PATH = re.compile(rf"/|(?:/{_SEGMENT})+/?")

# RFC 9110, section 7.2; a name, an IPv4 address, or an IPv6 address in brackets.
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def require_unambiguous(request: Any) -> None:
    """
    Check the head of gunicorn's *request*.

    Raises:
        InvalidRequestLine: The path has an empty, a relative or an encoded segment, or
            the target has a fragment or names a host.
        InvalidHeader: ``Host`` is missing or malformed, a header that may occur once is
            repeated, or ``Transfer-Encoding`` is not ``chunked``.
    """
    path, _, query = request.uri.partition("?")
    if not _PATH.fullmatch(path) or "#" in query:
        raise InvalidRequestLine(request.uri)
    values = dict(request.headers)
    host = values.get("HOST")
    # HTTP/1.0 does not require the header; probes of load balancers may omit it.
    if not _HOST.fullmatch(host or "") and (host or request.version >= (1, 1)):
        raise InvalidHeader("HOST", req=request)
    if values.get("TRANSFER-ENCODING", "chunked").strip().lower() != "chunked":
        raise InvalidHeader("TRANSFER-ENCODING", req=request)
    counts = Counter(name for name, _ in request.headers)
    for name, count in counts.items():
        if count > 1 and name in _SINGLE:
            raise InvalidHeader(name, req=request)


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


# The nearest base class counts.  Any other error is answered 500.
_STATUS: dict[type[BaseException], HTTPStatus] = {
    SlowClientError: HTTPStatus.REQUEST_TIMEOUT,
    errors.ParseException: HTTPStatus.BAD_REQUEST,
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
    errors.ConfigurationProblem: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.InvalidResponseHeader: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.InvalidResponseHeaderName: HTTPStatus.INTERNAL_SERVER_ERROR,
}

# One byte that the master and its workers share: whether any worker has started.
_has_started = mmap.mmap(-1, 1)

_RETRY_SECONDS = 1.0

_PROBES = tuple(
    f"{method} {path} ".encode()
    for method in ("GET", "HEAD")
    for path in ("/healthz", "/readyz")
)
_HEAD_BYTES = 16 * 1024  # As long as the head of a request usually is, with a token.
# A request waits so long for each of its about 20 turns beside one that computes.
_SWITCH_SECONDS = 0.0005
_PROBES_AT_ONCE = 4  # Several load balancers and supervisors may probe at once.


class GunicornWorker(gthread.ThreadWorker):  # type: ignore[misc]  # gunicorn has no types.
    """A gthread worker without a ``Server`` header and with deadlines for clients."""

    seconds = SECONDS  # For a client to send its request, and to read the answer.

    def init_process(self) -> None:
        # gunicorn has no setting for its ``Server`` header.
        wsgi.Response = _Response
        self._probes = ThreadPoolExecutor(_PROBES_AT_ONCE, "probe")
        sys.setswitchinterval(_SWITCH_SECONDS)
        super().init_process()

    def load_wsgi(self) -> None:
        """
        Create the application, which opens key, chains and database.

        A failure is logged here, since gunicorn would print the exception's message.
        The server ends if no worker could start yet and the reason stays.  Otherwise
        the master retries: another worker serves, or the reason is transient, such as a
        node that does not answer.
        """
        serving.set(self.cfg)
        try:
            super().load_wsgi()
            app = self.app.wsgi()
            self._tenants = TokenTenants(app, app.tenants)
            self.wsgi = self._tenants
            self._turns = Turns[gthread.TConn](
                self.cfg.threads, self._tenants.are_several
            )
        except Exception as e:  # noqa: BLE001  Every failure is logged here.
            refusals = [str(r) for r in getattr(e, "refusals", ())]
            _log.exception("worker-not-started", refusals=refusals)
            is_transient = isinstance(e, ConfigurationError) and e.is_transient
            if not (_has_started[0] or is_transient):
                raise SystemExit(Arbiter.WORKER_BOOT_ERROR) from None
            time.sleep(_RETRY_SECONDS)
            raise SystemExit(EXIT_STATUS) from None
        _has_started[0] = 1

    def enqueue_req(self, conn: gthread.TConn) -> None:
        """
        Give *conn* to a thread once there is something to read.

        gunicorn would let a thread wait up to 5 s for the first byte.  Probes have
        threads of their own, so they are answered even if all other threads wait for a
        device that hangs.
        """
        if conn.initialized or conn.data_ready:
            head = conn.sock.peek(_HEAD_BYTES)
            if _is_probe(head):
                future = self._probes.submit(self.handle, conn)
                future.add_done_callback(
                    lambda done: self.method_queue.defer(
                        self.finish_request, conn, done
                    )
                )
            else:
                conn.token = read_token(head)
                if not self._turns.add(self._tenants.queue(conn.token), conn):
                    self._refuse(conn)
                self._take_turns()
            return
        conn.sock = DeadlineSocket(conn.sock, self.seconds)
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + self.seconds
        # gunicorn closes silent connections in the order of this queue.
        self.pending_conns.append(conn)
        readable = partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, readable)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events, or until the turn of a request that waits."""
        left = self._turns.seconds_left()
        super().wait_for_and_dispatch_events(
            timeout if left is None else min(timeout, left)
        )
        self._take_turns()

    def _take_turns(self) -> None:
        """Start the requests whose turn it is, as long as there are threads."""
        while (turn := self._turns.take()) is not None:
            queue, conn = turn
            future = self.tpool.submit(self.handle, conn)
            future.add_done_callback(
                lambda done, queue=queue, conn=conn: self.method_queue.defer(
                    self._end_turn, queue, conn, done
                )
            )

    def _refuse(self, conn: gthread.TConn) -> None:
        """Answer without a thread that too many requests of the tenant wait."""
        error = RateLimitedError(
            "Too many requests of the tenant wait; wait for some.", retry_after=1
        )
        with contextlib.suppress(OSError):
            # Unread bytes would reset the connection, and lose the answer.
            conn.sock.recv(_LINGER_BYTES)
            answer = _answer(problem_of(error), new_request_id())
            util.write_nonblock(conn.sock, answer)
        self.nr_conns -= 1
        conn.close()

    def _end_turn(
        self, queue: Queue, conn: gthread.TConn, done: Future[object]
    ) -> None:
        payer = self._tenants.find(conn.token)
        self._turns.leave(queue, payer, conn.cpu_seconds)
        self._take_turns()
        self.finish_request(conn, done)

    def handle(self, conn: gthread.TConn) -> object:
        """
        Serve one request of *conn*; return whether another may follow.

        The connection lingers here.  gunicorn's main loop would wait up to 2 s for each
        client that does not close, and meanwhile neither accept connections nor send
        heartbeats to the master.
        """
        began = time.thread_time()
        try:
            conn.sock.reset_deadline()
            keep_alive = super().handle(conn)
            if keep_alive is False:
                conn.sock.linger()
            return keep_alive
        finally:
            conn.cpu_seconds = time.thread_time() - began

    def handle_request(self, req: object, conn: gthread.TConn) -> object:
        """Serve *req*, unless a proxy could have read it differently."""
        require_unambiguous(req)
        return super().handle_request(req, conn)

    def handle_error(
        self, req: object, client: socket.socket, addr: object, exc: BaseException
    ) -> None:
        """Answer a request that could not be read, before the connection is closed."""
        kind = next((kind for kind in type(exc).__mro__ if kind in _STATUS), None)
        status = _STATUS[kind] if kind else HTTPStatus.INTERNAL_SERVER_ERROR
        request_id = new_request_id()
        log = _log.warning if status < HTTPStatus.INTERNAL_SERVER_ERROR else _log.error
        log(
            "request-unreadable",
            status=int(status),
            request_id=request_id,
            exc_info=exc,
        )
        try:
            util.write_nonblock(client, _answer(problem_of_status(status), request_id))
        except OSError:
            _log.debug("client-gone", request_id=request_id)


class GunicornLogger(glogging.Logger):  # type: ignore[misc]  # gunicorn has no types.
    def setup(self, cfg: object) -> None:
        """Configure logging; gunicorn calls this first."""
        super().setup(cfg)
        configure(Settings.from_env(os.environ))
        watch_uncaught()
        self.error_log.propagate = True


class _Response(wsgi.Response):  # type: ignore[misc]
    def should_close(self) -> bool:
        # The rest of a late body would be parsed as the next request.
        return self.sock.is_late or super().should_close()  # type: ignore[no-any-return]

    def write(self, arg: bytes) -> None:
        # gunicorn sends head and body apart: two packets, and a client woken twice.
        with self.sock.joined_sends():
            super().write(arg)

    def default_headers(self) -> list[str]:
        return [
            line for line in super().default_headers() if not line.startswith("Server:")
        ]


def _is_probe(head: bytes) -> bool:
    """Whether *head* is a complete probe, so that its thread need not wait."""
    return head.startswith(_PROBES) and head.endswith(b"\r\n\r\n")


def _answer(problem: Problem, request_id: str) -> bytes:
    body = problem.to_bytes(request_id)
    headers = {
        **SECURITY_HEADERS,
        **problem.headers,
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "Connection": "close",
        "X-Request-Id": request_id,
    }
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    phrase = HTTPStatus(problem.status).phrase
    head = f"HTTP/1.1 {problem.status} {phrase}\r\n{''.join(lines)}\r\n"
    return head.encode("ascii") + body
