"""Traces of refunds: ids that follow from the refund, and spans of stored changes."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from structlog.testing import capture_logs

from api.extras.open_telemetry.settings import TraceSettings
from api.extras.open_telemetry.tracer import ReportingExporter, build_tracer
from signer.config.models import read_model
from signer.errors import ConfigurationError
from signer.model.payment import PaymentState
from signer.model.refund import Refund, Status, new_refund_id
from signer.model.transaction import Transaction, TransactionStatus
from tests.fixtures.ledger import WALLET, queued, status_moves, step_to


START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

_ATTRIBUTES = {
    "hotwallet.refund.id",
    "hotwallet.refund.status",
    "hotwallet.refund.version",
    "hotwallet.tenant",
    "hotwallet.network",
    "hotwallet.token",
    "hotwallet.nonce",
    "hotwallet.transaction.hash",
    "hotwallet.code",
}


class Traced:
    """A process with a tracer of its own, and the spans that it has sent."""

    def __init__(self, share: float = 1.0) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracer = build_tracer(
            SimpleSpanProcessor(self._exporter),
            share,
            lambda: START + timedelta(seconds=30),
        )

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]


def _refund(**changes: object) -> Refund:
    given = {"id": new_refund_id(START), "created_at": START, "updated_at": START}
    return queued(**{**given, **changes})


def _moved(refund: Refund, status: Status, at: datetime) -> Refund:
    if status.state is not PaymentState.ASSIGNED or refund.transaction is not None:
        return step_to(refund, status, at)
    first = TransactionStatus(status)
    drafted = Transaction.draft(
        [refund],
        at,
        sender=WALLET,
        nonce=0,
        key_id="01",
        gas_limit=65_000,
        status=first,
    )
    return refund.assigned(drafted)


def _ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def test_one_trace_across_processes() -> None:
    """Its id is the refund's, and each step begins where the last one ended."""
    api, worker = Traced(), Traced()
    refund = _refund()
    api.tracer.accepted(refund, 0.25, None)
    steps = (Status.RESERVED, Status.SIGNED, Status.BROADCAST, Status.MINED)
    for seconds, status in enumerate([*steps, Status.CONFIRMED], 1):
        before, at = refund, START + timedelta(seconds=seconds)
        refund = _moved(refund, status, at)
        worker.tracer.moved(before, refund)

    (first,) = api.spans
    assert first.name == "accept"
    assert first.parent is None
    assert worker.names == ["reserve", "sign", "broadcast", "mine", "confirm"]
    trace = int(refund.id.removeprefix("rf_"), 16)
    assert {_ids(span)[0] for span in (first, *worker.spans)} == {trace}
    assert len({_ids(span) for span in (first, *worker.spans)}) == 6
    for span in worker.spans:
        assert span.parent is not None
        assert span.parent.span_id == _ids(first)[1]
    assert (first.start_time, first.end_time) == (
        1767323045_678901_000,
        1767323045_928901_000,
    )
    times = [first.start_time, *(span.end_time for span in worker.spans)]
    assert [span.start_time for span in worker.spans] == times[:-1]


def test_the_caller_is_linked() -> None:
    """By the header ``traceparent`` of its request (W3C Trace Context)."""
    traced = Traced()
    traced.tracer.accepted(_refund(), 0.1, PARENT)

    (link,) = traced.spans[0].links
    assert f"{link.context.trace_id:032x}" == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert f"{link.context.span_id:016x}" == "00f067aa0ba902b7"


def test_a_malformed_caller_is_not_linked() -> None:
    zeros = "00-" + "0" * 32 + PARENT[35:]
    for header in (None, "", "x", PARENT[:-1], PARENT.upper(), zeros, "é"):
        traced = Traced()
        traced.tracer.accepted(_refund(), 0.1, header)

        assert list(traced.spans[0].links) == [], header


def test_every_move_has_a_span() -> None:
    """A clock that was set back makes it empty; only bad ends are errors."""
    for before, moves in status_moves().items():
        for after in moves:
            traced = Traced()
            refund = _refund(status=before)
            traced.tracer.moved(refund, _moved(refund, after, START - timedelta(1)))

            (span,) = traced.spans
            assert span.start_time == span.end_time
            is_bad = after in {Status.REFUSED, Status.FAILED}
            assert (span.status.status_code is StatusCode.ERROR) is is_bad, after


def test_spans_say_nothing_that_is_secret() -> None:
    """No amount, recipient, key, reference or text of an error."""
    traced = Traced()
    refund = _refund(
        status=Status.BROADCAST,
        sender="0xsender",
        key_id="arn:aws:kms:eu-central-1:111122223333:key/1234abcd",
        nonce=7,
        gas_limit=60_000,
        tx_hash="0xhash",
        failure_code="reverted",
        failure_detail="https://user:password@node.example",
    )
    traced.tracer.accepted(refund, 1, PARENT)
    traced.tracer.moved(refund, step_to(refund, Status.FAILED, START))
    traced.tracer.delayed(replace(refund, attempts=0), "chain-unavailable")

    for span in traced.spans:
        attributes = span.attributes or {}
        assert set(attributes) <= _ATTRIBUTES
        shown = span.to_json()
        for secret in ("1234abcd", "password", refund.recipient, refund.reference):
            assert secret not in shown


def test_only_the_first_failure_of_a_step_is_sent() -> None:
    """With its code, from the end of the last step on."""
    traced = Traced()
    for attempts in range(3):
        traced.tracer.delayed(_refund(attempts=attempts), "insufficient-funds")

    (span,) = traced.spans
    assert (span.name, span.status.description) == ("delay", "insufficient-funds")
    assert span.start_time is not None
    assert span.end_time == span.start_time + 30 * 10**9


def test_all_processes_trace_the_same_share() -> None:
    """All spans of a refund are sent, or none."""
    api, worker = Traced(0.5), Traced(0.5)
    refunds = [_refund() for _ in range(200)]
    for refund in refunds:
        api.tracer.accepted(refund, 0.1, None)
        after = _moved(refund, Status.RESERVED, START)
        worker.tracer.moved(refund, after)

    assert 50 < len(api.spans) < 150
    assert {_ids(s)[0] for s in api.spans} == {_ids(s)[0] for s in worker.spans}


def test_a_collector_that_fails_is_logged() -> None:
    """Without its answer; the spans are dropped."""

    class Failing(InMemorySpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return SpanExportResult.FAILURE

    exporter = ReportingExporter(Failing())
    with capture_logs() as logs:
        build_tracer(SimpleSpanProcessor(exporter), 1, lambda: START).accepted(
            _refund(), 1, None
        )
        assert exporter.force_flush()
        exporter.shutdown()

    assert logs == [{"event": "traces-not-sent", "log_level": "warning", "spans": 1}]


def test_a_changed_row_stops_no_refund() -> None:
    """Its id is no trace id."""
    traced = Traced()
    refund = _refund(id="rf_changed")
    with capture_logs() as logs:
        traced.tracer.accepted(refund, 1, None)
        traced.tracer.moved(refund, _moved(refund, Status.RESERVED, START))
        traced.tracer.delayed(refund, "chain-unavailable")

    assert not traced.spans
    assert [(each["event"], each["error"]) for each in logs] == [
        ("traces-not-sent", "ValueError")
    ] * 3


_OFF = """
import sys
from api.bootstrap import build_container
container = build_container({"APP_ENV": "test"})
meter = object()
assert container.with_traces(meter) is meter
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""

_MISSING = """
import sys
sys.modules["opentelemetry"] = None
from api.bootstrap import build_container, check_configuration
from signer.errors import ConfigurationError
environ = {"APP_ENV": "test", "TRACES_URL": "http://127.0.0.1/"}
container = build_container(environ)
for run in (
    lambda: container.with_traces(object()),
    lambda: check_configuration(environ),
):
    try:
        run()
    except ConfigurationError as e:
        assert "pip install 'hotwallet[otel]'" in str(e), str(e)
    else:
        raise AssertionError
"""


@pytest.mark.parametrize("program", [_OFF, _MISSING], ids=["off", "missing"])
def test_the_packages_are_optional(program: str) -> None:
    """Without ``TRACES_URL`` nothing is imported; with it, they must be there."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("TRACES_URL", url) for url in ("collector:4318", "ftp://x/", "http://x/'y")),
        *(("TRACES_SHARE", share) for share in ("-0.1", "1.1", "half")),
    ],
)
def test_unusable_settings_are_refused(name: str, value: str) -> None:
    """Also without a URL; no message has a value."""
    with pytest.raises(ConfigurationError) as refused:
        read_model(TraceSettings, {name: value})

    assert [each.code for each in refused.value.refusals] == ["settings-invalid"]
    assert value not in str(refused.value)


def test_the_url_may_have_a_token() -> None:
    settings = read_model(TraceSettings, {"TRACES_URL": "http://x:4318/?t=planted"})

    assert settings.url is not None
    assert settings.url.get_secret_value().endswith("planted")
    assert "planted" not in repr(settings)
