"""
Makes a span of each step of a refund, from one stored status to the next.

The times are those of the ledger, which all hosts share.  A span is made after the
commit, so there is one for each change, and none for a change that was rolled back.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from backends.open_telemetry.ids import ACCEPTANCE, RefundIds, acceptance
from signer.model import refund as refunds
from signer.model.refund import Refund
from signer.ports.clock import Clock
from signer.ports.meter import Meter


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
            self._accepted(refund, seconds, trace)

    def moved(self, before: Refund, after: Refund) -> None:
        with self._never_raising():
            self._moved(before, after)

    def delayed(self, refund: Refund, code: str) -> None:
        if refund.attempts == 0:  # The first failure of a step, and no repetition.
            with self._never_raising():
                self._delayed(refund, code)

    def _accepted(self, refund: Refund, seconds: float, trace: str | None) -> None:
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

    def _moved(self, before: Refund, after: Refund) -> None:
        span = self._start(after, _STEPS[after.status], before.updated_at)
        if after.status in _FAILURES:
            span.set_status(Status(StatusCode.ERROR, after.failure_code))
        span.end(_nanoseconds(max(before.updated_at, after.updated_at)))

    def _delayed(self, refund: Refund, code: str) -> None:
        span = self._start(refund, "delay", refund.updated_at)
        span.set_status(Status(StatusCode.ERROR, code))
        span.end(_nanoseconds(max(refund.updated_at, self._clock())))

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
        "hotwallet.refund.version": refund.version,
        "hotwallet.tenant": refund.tenant,
        "hotwallet.network": refund.network,
        "hotwallet.token": refund.token,
        "hotwallet.nonce": refund.nonce,
        "hotwallet.transaction.hash": refund.tx_hash,
        "hotwallet.code": refund.failure_code or refund.blocked_by,
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
