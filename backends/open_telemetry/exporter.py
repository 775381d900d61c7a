"""Sends spans to a collector, by OTLP over HTTP."""

import os
from collections.abc import Sequence

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from pydantic import SecretStr

from backends.open_telemetry.ids import RefundIds
from backends.open_telemetry.tracer import RefundTracer
from signer.ports.clock import Clock


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
