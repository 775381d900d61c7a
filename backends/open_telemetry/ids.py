"""
The ids of traces and spans, which follow from the refund.

So each process that moves a refund adds to the same trace, and no column carries its
context.  A refund's id is 128 bits of time and chance, as W3C Trace Context asks of a
trace id: an operator finds the trace by the refund's id, without ``rf_``.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from threading import local

from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from signer.model.refund import Refund


ACCEPTANCE = "accept"
"""The name of a trace's first span."""


def trace_id(refund: Refund) -> int:
    """Return the trace id of *refund*."""
    return int(refund.id.removeprefix("rf_"), 16)


def span_id(refund: Refund, name: str) -> int:
    """Return the id of the span *name* of *refund*, in its current version."""
    version = 0 if name == ACCEPTANCE else refund.version
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
