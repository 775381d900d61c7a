"""
gunicorn's worker and logger, adapted to this service.

Malformed HTTP requests never reach the application, so the worker answers them with
problem documents itself.  It has deadlines for slow clients
(``api/server/client_timeouts.py``), but many slow clients can still occupy all threads.
Production therefore needs a proxy in front.
"""

import mmap
import os
import selectors
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus

import structlog
from gunicorn import glogging, util  # type: ignore[import-untyped]
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.http import errors, wsgi  # type: ignore[import-untyped]
from gunicorn.workers import gthread  # type: ignore[import-untyped]

from api.http.body import SlowClientError
from api.http.middleware import SECURITY_HEADERS
from api.http.problems import MEDIA_TYPE, problem_of_status
from api.logs import configure
from api.request_context import new_request_id
from api.server.client_timeouts import SECONDS, DeadlineSocket
from api.server.config_check import serving
from api.server.request_rules import require_unambiguous
from api.uncaught import watch_uncaught
from signer.config.settings import Settings
from signer.errors import ConfigurationError
from signer.startup.guard import EXIT_STATUS


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
_PROBE_BYTES = 2048
_PROBES_AT_ONCE = 4  # Several load balancers and supervisors may probe at once.

_log = structlog.get_logger("api.gunicorn")


class GunicornWorker(gthread.ThreadWorker):  # type: ignore[misc]  # gunicorn has no types.
    """A gthread worker without a ``Server`` header and with deadlines for clients."""

    seconds = SECONDS  # For a client to send its request, and to read the answer.

    def init_process(self) -> None:
        """Start serving."""
        # gunicorn has no setting for its ``Server`` header.
        wsgi.Response = _Response
        self._probes = ThreadPoolExecutor(_PROBES_AT_ONCE, "probe")
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
            if _is_probe(conn.sock):
                future = self._probes.submit(self.handle, conn)
                future.add_done_callback(
                    lambda done: self.method_queue.defer(
                        self.finish_request, conn, done
                    )
                )
            else:
                super().enqueue_req(conn)
            return
        conn.sock = DeadlineSocket(conn.sock, self.seconds)
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + self.seconds
        # gunicorn closes silent connections in the order of this queue.
        self.pending_conns.append(conn)
        readable = partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, readable)

    def handle(self, conn: gthread.TConn) -> object:
        """
        Serve one request of *conn*; return whether another may follow.

        The connection lingers here.  gunicorn's main loop would wait up to 2 s for each
        client that does not close, and meanwhile neither accept connections nor send
        heartbeats to the master.
        """
        conn.sock.reset_deadline()
        keep_alive = super().handle(conn)
        if keep_alive is False:
            conn.sock.linger()
        return keep_alive

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
            util.write_nonblock(client, _answer(status, request_id))
        except OSError:
            _log.debug("client-gone", request_id=request_id)


class GunicornLogger(glogging.Logger):  # type: ignore[misc]  # gunicorn has no types.
    """Sends gunicorn's log to the service's log, in the master and the workers."""

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


def _is_probe(connection: DeadlineSocket) -> bool:
    """Whether a complete probe has arrived, so that its thread need not wait."""
    head = connection.peek(_PROBE_BYTES)
    return head.startswith(_PROBES) and head.endswith(b"\r\n\r\n")


def _answer(status: HTTPStatus, request_id: str) -> bytes:
    body = problem_of_status(status).to_bytes(request_id)
    headers = {
        **SECURITY_HEADERS,
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "Connection": "close",
        "X-Request-Id": request_id,
    }
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\n{''.join(lines)}\r\n"
    return head.encode("ascii") + body
