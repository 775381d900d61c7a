"""
Logging: one JSON object per line on standard output.

Events of structlog and records of the standard library (gunicorn, SQLAlchemy,
warnings) use the same handler.  Exceptions are logged as classes and code locations
only: the message of an unknown exception may contain a DSN, a token or vendor text.
"""

import json
import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from api.uncaught import outline
from signer.audit.log import LogLines
from signer.config.settings import Environment, Settings
from signer.redact import quiet_vendor_loggers, redact_event


# ASCII only: no Unicode line breaks, no escape sequences.
_JSON = json.JSONEncoder(ensure_ascii=True, sort_keys=True)


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    return _JSON.encode(event)


def install(
    *, debug: bool = False, pretty: bool = False, stream: TextIO | None = None
) -> None:
    """
    Send all log events of this process to *stream*, by default standard output.

    *debug* adds our own debug events; libraries stay at WARNING or above.  *pretty*
    writes coloured lines for a terminal instead of JSON.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        # Audit events already have the time of their own clock.
        structlog.processors.MaybeTimeStamper(fmt="iso", utc=True),
        _describe_exception,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        # Off, because tests and the guard configure logging more than once per process.
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            redact_event,
            structlog.dev.ConsoleRenderer() if pretty else _render_json,
        ],
    )
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(formatter)
    # Do not collect what no line shows ("Optimization" in Python's logging HOWTO).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001  The HOWTO names it: half of a line's time.
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


def audit_logger(stream: TextIO | None = None) -> LogLines:
    """
    Return the logger of audit records: always JSON, without the standard library.

    The standard library drops a line that it cannot write.  This logger raises an
    error unless the operating system has the whole line, so that nothing is signed
    without it.
    """
    file = stream or sys.stdout
    buffer = getattr(file, "buffer", None)
    if buffer is None:  # It is in memory.
        return LogLines(structlog.WriteLogger(file).info)
    # Not the text stream: another thread that fails to flush that drops our line, and
    # our own flush then succeeds.  A buffer keeps what it cannot write.
    write = structlog.BytesLogger(buffer).info
    return LogLines(lambda line: write(line.encode("ascii")))


def _describe_exception(
    logger: WrappedLogger, method: str, event: EventDict
) -> EventDict:
    info = event.pop("exc_info", None)
    error = sys.exception() if info is True else info
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["exception"] = outline(error)
    return event
