"""Logs have one JSON object per line, without secrets."""

import io
import logging
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import bitcurve
import pytest
import structlog

from api import logs
from backends.sql import SQLStore
from signer.audit.log import AuditLog
from signer.config.settings import Settings
from signer.errors import AuditLogUnwritableError, BackendUnavailableError
from signer.keys.signer import Signer
from signer.model.audit_record import Record
from signer.ports.key_backend import KeyId
from tests.api.support import lines
from tests.support.devices import honest


CANARY = "canary-pin-48213"


@pytest.mark.parametrize(
    "text",
    [
        "a\r\nb",
        'x", "admin": "true',
        "\x1b[2J\x1b[31mred",
        "a\u2028b\u2029c\x85d",
        "\u202edetrevni",
        "a\x00b",
        "\\u000a",
    ],
)
def test_an_event_is_always_one_line(log: io.StringIO, text: str) -> None:
    """H18: an event is one line of ASCII, with any text in its fields."""
    structlog.get_logger("t").info("event", field=text)
    logging.getLogger("library").warning("text %s", text)

    written = log.getvalue()
    first, second = lines(log)
    assert written.isascii()
    assert not set(written) & {chr(n) for n in range(32)} - {"\n"}
    assert first["field"] == text
    assert second["event"] == f"text {text}"


def test_both_kinds_of_loggers_have_the_same_fields(log: io.StringIO) -> None:
    structlog.get_logger("ours").warning("one")
    logging.getLogger("theirs").warning("two")

    ours, theirs = lines(log)
    assert set(ours) == set(theirs) == {"event", "level", "logger", "timestamp"}
    assert str(ours["timestamp"]).endswith("Z")


def test_exceptions_are_classes_and_locations(log: io.StringIO) -> None:
    """H19: the log has the location of an exception, never its message or variables."""

    def login(pin: str) -> None:
        raise OSError(f"login with {pin} failed")

    def fail() -> None:
        try:
            login(CANARY)
        except OSError as e:
            raise BackendUnavailableError(f"vendor error: {CANARY}") from e

    try:
        fail()
    except BackendUnavailableError:
        structlog.get_logger("ours").exception("failed")
        logging.getLogger("theirs").exception("failed")

    for line in lines(log):
        outer, inner = line["exception"]
        assert outer["class"] == "signer.errors.BackendUnavailableError"
        assert inner["class"] == "builtins.OSError"
        assert outer["frames"][-1].endswith(" fail")
    assert len(lines(log)) == 2
    assert CANARY not in log.getvalue()


def test_a_cycle_of_causes_ends(log: io.StringIO) -> None:
    one, other = ValueError(), TypeError()
    one.__cause__, other.__cause__ = other, one
    structlog.get_logger("ours").error("failed", exc_info=one)

    (line,) = lines(log)
    assert len(line["exception"]) == 8


@pytest.mark.parametrize(
    "name", ["botocore.auth", "psycopg", "urllib3.connectionpool", "web3.rpc"]
)
def test_verbose_libraries_stay_at_warning(log: io.StringIO, name: str) -> None:
    logging.getLogger(name).debug("Authorization: %s", CANARY)
    logging.getLogger(name).info("connecting to %s", CANARY)
    structlog.get_logger("ours").debug("debug is on")

    (line,) = lines(log)
    assert line["event"] == "debug is on"


def test_redacts_secrets_in_events(log: io.StringIO) -> None:
    structlog.get_logger("ours").info("e", pin=CANARY, authorization=CANARY)
    logging.getLogger("theirs").warning(
        "calling arn:aws:kms:eu-central-1:111122223333:key/%s", CANARY
    )

    assert len(lines(log)) == 2
    assert CANARY not in log.getvalue()
    assert "111122223333" not in log.getvalue()


def test_warnings_are_events(log: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old\nfashioned", DeprecationWarning, stacklevel=1)

    (line,) = lines(log)
    assert line["logger"] == "py.warnings"


def test_pretty_output_is_readable(log: io.StringIO) -> None:
    logs.install(pretty=True, stream=log)
    structlog.get_logger("ours").info("hello", answer=42)

    assert "hello" in log.getvalue()
    assert not log.getvalue().startswith("{")


@pytest.mark.parametrize(
    ("environ", "level"),
    [({}, logging.INFO), ({"APP_ENV": "test", "DEBUG": "true"}, logging.DEBUG)],
)
def test_settings_choose_the_level(
    log: io.StringIO, environ: dict[str, str], level: int
) -> None:
    logs.configure(Settings.from_env(environ))

    assert logging.getLogger().level == level


def _full_disk() -> TextIO:
    return Path("/dev/full").open("w", encoding="ascii")


def _closed_pipe() -> TextIO:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", encoding="ascii")


def _full_pipe() -> TextIO:
    """Return a pipe that another program made non-blocking, and that is not read."""
    _, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    return os.fdopen(writer, "w", encoding="ascii")


@pytest.mark.parametrize("open_sink", [_full_disk, _closed_pipe, _full_pipe])
@pytest.mark.parametrize("has_journal", [True, False])
def test_nothing_is_signed_if_the_line_cannot_be_written(
    sqlite_store: SQLStore, open_sink: Callable[[], TextIO], has_journal: bool
) -> None:
    device = honest(bitcurve.PrivateKey())
    journal = sqlite_store if has_journal else None
    with suppress(OSError), open_sink() as sink:
        audit = AuditLog(logs.audit_logger(sink), journal=journal)
        signer = Signer.open(device, KeyId("01"), audit)

        # Also when the buffer has no space left for a line.
        for _ in range(20):
            with pytest.raises(AuditLogUnwritableError):
                signer.self_test()
        # What is left in the buffer would be written, and fail, once more at the end.

    assert device.calls == 0


def test_each_line_is_written_at_once(tmp_path: Path) -> None:
    """A process that is killed leaves no line in a buffer."""
    path = tmp_path / "log"
    with path.open("w", encoding="ascii") as sink:
        audit = AuditLog(logs.audit_logger(sink))
        for number in range(1, 4):
            audit.log(Record.of({"event": "test"}, datetime.now(UTC)))

            assert path.read_bytes().count(b"\n") == number


def test_an_audit_event_is_one_line_of_json() -> None:
    """It has the record's body in ASCII, and what an event of the log has."""
    stream = io.StringIO()
    fields = {"actor": "a\nb", "digest": "00", "event": "digest-sign-succeeded"}
    records = [
        Record.of({**fields, **more}, datetime.now(UTC))
        for more in ({}, {"actor": "a\nb\u2028c", "details": {"nonce": 7}})
    ]

    AuditLog(logs.audit_logger(stream)).write(*records)

    start = '{"actor":"a\\nb%s"%s,"digest":"00","event":"digest-sign-succeeded",'
    end = '"level":"info","logger":"audit","record_id":"%s"}\n'
    assert stream.getvalue() == (
        start % ("", "")
        + end % records[0].id
        + start % ("\\u2028c", ',"details":{"nonce":7}')
        + end % records[1].id
    )
