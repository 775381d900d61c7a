"""Traces of refunds, sent to a collector by OTLP over HTTP."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from threading import local

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pydantic import SecretStr

from signer.model import refund as refunds
from signer.model.refund import Refund
from signer.model.transaction import Transaction
from signer.ports.clock import Clock
from signer.ports.meter import Meter


ACCEPTANCE = "accept"
"""The name of a trace's first span."""


def trace_id(refund: Refund) -> int:
    return int(refund.id.removeprefix("rf_"), 16)


def span_id(refund: Refund, name: str) -> int:
    """Return the id of the span *name* of *refund*, in its current version."""
    version = 0 if name == ACCEPTANCE else refund.revision
    text = f"{refund.id} {version} {name}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def acceptance(refund: Refund) -> NonRecordingSpan:
    """Return the first span of *refund*, which another process may have sent."""
    return NonRecordingSpan(
        SpanContext(
            trace_id(refund),
            span_id(refund, ACCEPTANCE),
            is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )
    )


class RefundIds(IdGenerator):
    """Gives the next span of this thread the ids that ``use`` was called with."""

    def __init__(self) -> None:
        self._next = local()

    @contextmanager
    def use(self, refund: Refund, name: str) -> Iterator[None]:
        """Give the span that the block starts the ids of *refund* and *name*."""
        self._next.ids = trace_id(refund), span_id(refund, name)
        try:
            yield
        finally:
            del self._next.ids

    def generate_trace_id(self) -> int:
        ids: tuple[int, int] = self._next.ids
        return ids[0]

    def generate_span_id(self) -> int:
        ids: tuple[int, int] = self._next.ids
        return ids[1]


_STEPS = {
    refunds.Status.AWAITING_APPROVAL: "request-approval",
    refunds.Status.QUEUED: "approve",
    refunds.Status.RESERVED: "reserve",
    refunds.Status.SIGNED: "sign",
    refunds.Status.BROADCAST: "broadcast",
    refunds.Status.MINED: "mine",
    refunds.Status.CONFIRMED: "confirm",
    refunds.Status.REFUSED: "refuse",
    refunds.Status.CANCELLED: "cancel",
    refunds.Status.FAILED: "fail",
}
"""The span that ends with each status."""

_FAILURES = frozenset({refunds.Status.REFUSED, refunds.Status.FAILED})

_HEADER = "traceparent"
_PROPAGATOR = TraceContextTextMapPropagator()


class RefundTracer(Meter):
    """
    Sends spans through a provider, whose ids must come from *ids*.

    The attributes identify the refund and its transaction.  They have no amount, no
    recipient, no key and no free text.
    """

    def __init__(self, provider: TracerProvider, ids: RefundIds, clock: Clock) -> None:
        """Date what is not in the ledger by *clock*, the ledger's."""
        self._tracer = provider.get_tracer("hotwallet")
        self._ids = ids
        self._clock = clock
        self._log = structlog.get_logger("traces")

    def accepted(self, refund: Refund, seconds: float, trace: str | None) -> None:
        with self._never_raising():
            caller = _read_caller(trace)
            start = refund.created_at
            with self._ids.use(refund, ACCEPTANCE):
                span = self._tracer.start_span(
                    ACCEPTANCE,
                    kind=SpanKind.SERVER,
                    attributes=_attributes(refund),
                    links=[] if caller is None else [Link(caller)],
                    start_time=_nanoseconds(start),
                )
            span.end(_nanoseconds(start + timedelta(seconds=seconds)))

    def moved(self, before: Refund, after: Refund) -> None:
        with self._never_raising():
            span = self._start(after, _STEPS[after.status], before.moving.updated_at)
            if after.status in _FAILURES:
                span.set_status(Status(StatusCode.ERROR, after.failure_code))
            span.end(
                _nanoseconds(max(before.moving.updated_at, after.moving.updated_at))
            )

    def delayed(self, moving: Refund | Transaction, code: str) -> None:
        if moving.attempts:
            return  # A repetition of the first failure of a step.
        for refund in moving.payments:
            with self._never_raising():
                span = self._start(refund, "delay", moving.updated_at)
                span.set_status(Status(StatusCode.ERROR, code))
                span.end(_nanoseconds(max(moving.updated_at, self._clock())))

    @contextmanager
    def _never_raising(self) -> Iterator[None]:
        """Log an error of the block: no refund fails because of its trace."""
        try:
            yield
        except Exception as e:  # noqa: BLE001  The SDK's, or of a changed row.
            self._log.warning("traces-not-sent", spans=1, error=type(e).__name__)

    def _start(self, refund: Refund, name: str, start: datetime) -> Span:
        with self._ids.use(refund, name):
            return self._tracer.start_span(
                name,
                set_span_in_context(acceptance(refund)),
                attributes=_attributes(refund),
                start_time=_nanoseconds(start),
            )


def _attributes(refund: Refund) -> dict[str, str | int]:
    found: dict[str, str | int | None] = {
        "hotwallet.refund.id": refund.id,
        "hotwallet.refund.status": str(refund.status),
        "hotwallet.refund.version": refund.revision,
        "hotwallet.tenant": refund.tenant,
        "hotwallet.network": refund.network,
        "hotwallet.token": refund.token,
        "hotwallet.nonce": refund.nonce,
        "hotwallet.transaction.hash": refund.tx_hash,
        "hotwallet.code": refund.failure_code or refund.moving.blocked_by,
    }
    return {name: value for name, value in found.items() if value is not None}


def _read_caller(trace: str | None) -> SpanContext | None:
    """Return the span of the caller; None if the header is missing or malformed."""
    if trace is None:
        return None
    context = _PROPAGATOR.extract({_HEADER: trace})
    span = get_current_span(context).get_span_context()
    return span if span.is_valid else None


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1000


_TIMEOUT_SECONDS = 5  # Of a request; also the longest delay when the process ends.


def open_exporter(url: SecretStr, share: float, clock: Clock) -> RefundTracer:
    """
    Return a tracer that sends spans to *url*, in a background thread of its own.

    Of all refunds, *share* are traced.  The trace id decides, so each process sends all
    spans of a refund, or none.  Spans that cannot be sent in time are dropped.
    """
    exporter = OTLPSpanExporter(url.get_secret_value(), timeout=_TIMEOUT_SECONDS)
    processor = BatchSpanProcessor(ReportingExporter(exporter))
    return build_tracer(processor, share, clock)


def build_tracer(processor: SpanProcessor, share: float, clock: Clock) -> RefundTracer:
    """Return a tracer whose spans *processor* gets."""
    ids = RefundIds()
    provider = TracerProvider(
        # Not ParentBased: the first span may be in another process.
        sampler=TraceIdRatioBased(share),
        resource=Resource.create(
            {"service.name": os.environ.get("OTEL_SERVICE_NAME", "hotwallet")}
        ),
        id_generator=ids,
    )
    provider.add_span_processor(processor)
    return RefundTracer(provider, ids, clock)


class ReportingExporter(SpanExporter):
    """Logs that spans were not sent, without the text of the collector's answer."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._log = structlog.get_logger("traces")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._log.warning("traces-not-sent", spans=len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
