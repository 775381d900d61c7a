"""
Logging: one JSON object per line on standard output.

Events of structlog and records of the standard library (gunicorn, SQLAlchemy,
warnings) use the same handler.  Exceptions are logged as classes and code locations
only: the message of an unknown exception may contain a DSN, a token or vendor text.
"""

import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from signer.config.settings import Environment, Settings
from signer.redact import quiet_vendor_loggers, redact_event


_MAX_CAUSES = 8


def install(
    *, debug: bool = False, pretty: bool = False, stream: TextIO | None = None
) -> None:
    """
    Send all log events of this process to *stream*.

    Args:
        debug: Log our own debug events.  Libraries stay at WARNING or above.
        pretty: Coloured lines for a terminal instead of JSON.
        stream: Standard output by default.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        _stamp,
        describe_exception,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        # Off, because tests and the guard configure logging more than once per process.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(_formatter(shared, pretty=pretty))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    quiet_vendor_loggers()
    logging.captureWarnings(True)
    # A failing handler would print the event, not redacted, to standard error.
    logging.raiseExceptions = False


def configure(settings: Settings) -> None:
    """Configure logging by *settings*; pretty only for a terminal in development."""
    development = settings.app_env is Environment.DEVELOPMENT
    install(debug=settings.debug, pretty=development and sys.stdout.isatty())


def watch_uncaught() -> None:
    """
    Report uncaught exceptions by class and code location on standard error.

    Python would print their messages.  This works before logging is installed.
    """
    sys.excepthook = lambda kind, error, trace: _uncaught("uncaught", error)
    threading.excepthook = lambda died: _uncaught("thread-died", died.exc_value)
    sys.unraisablehook = lambda lost: _uncaught("unraisable", lost.exc_value)


def _uncaught(event: str, error: BaseException | None) -> None:
    links = [] if error is None else [_outline(link) for link in _chain(error)]
    line = {"event": event, "exception": links, "level": "critical"}
    sys.stderr.write(json.dumps(line, sort_keys=True) + "\n")


def audit_logger(stream: TextIO | None = None) -> structlog.typing.FilteringBoundLogger:
    """
    Return the logger of audit events: always JSON, without the standard library.

    The standard library drops a line that it cannot write.  This logger raises, so that
    nothing is signed without its record; it is also three times as fast.
    """
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(stream or sys.stdout),
        processors=[
            structlog.processors.add_log_level,
            redact_event,
            structlog.processors.JSONRenderer(ensure_ascii=True, sort_keys=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    ).bind(logger="audit")
    return logger


def describe_exception(
    logger: WrappedLogger, method: str, event: EventDict
) -> EventDict:
    """
    Replace ``exc_info`` by the classes and code locations of the exception chain.

    Messages, local variables and source lines are left out: they may contain secrets.
    """
    error = _exception(event.pop("exc_info", None))
    if error is not None:
        event["exception"] = [_outline(link) for link in _chain(error)]
    return event


def _stamp(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    # Audit events already have the time of their own clock.
    if "timestamp" in event:
        return event
    return _TIMESTAMP(logger, method, event)


_TIMESTAMP = structlog.processors.TimeStamper(fmt="iso", utc=True)


def _formatter(
    shared: list[Processor], *, pretty: bool
) -> structlog.stdlib.ProcessorFormatter:
    renderer: Processor = (
        structlog.dev.ConsoleRenderer()
        if pretty
        # ASCII only: no Unicode line breaks, no escape sequences.
        else structlog.processors.JSONRenderer(ensure_ascii=True, sort_keys=True)
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            redact_event,
            renderer,
        ],
    )


def _exception(exc_info: object) -> BaseException | None:
    if exc_info is True:
        return sys.exception()
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    return exc_info if isinstance(exc_info, BaseException) else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if link is None:
            return
        yield link
        hidden = link.__suppress_context__
        link = link.__cause__ or (None if hidden else link.__context__)


def _outline(error: BaseException) -> dict[str, object]:
    kind = type(error)
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "frames": list(_frames(error.__traceback__)),
    }


def _frames(trace: TracebackType | None) -> Iterator[str]:
    for frame, line in traceback.walk_tb(trace):
        module = frame.f_globals.get("__name__", "?")
        yield f"{module}:{line} {frame.f_code.co_name}"
