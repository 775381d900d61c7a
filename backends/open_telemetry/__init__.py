"""
Traces of refunds, for OpenTelemetry; needs the packages of the extra ``otel``.

It may import ``signer.ports``, and no other backend.
"""

from backends.open_telemetry.exporter import open_exporter


__all__ = ["open_exporter"]
