"""Traces of refunds for OpenTelemetry, if ``TRACES_URL`` is set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.extension import Extra


if TYPE_CHECKING:
    from api.container import Container
    from signer.ports.meter import Meter

EXTRA = Extra(
    name="open_telemetry",
    services={"tracer": "api.extras.open_telemetry:open_tracer"},
    start_checks="api.extras.open_telemetry:check_traces",
)


def check_traces(container: Container, *, paying: bool) -> None:
    """Refuse unusable settings, and missing packages if traces are to be sent."""
    open_tracer(container)


def open_tracer(container: Container) -> Meter | None:
    """Return what sends traces of refunds, if that is configured."""
    from api.extras.open_telemetry.settings import TraceSettings
    from signer.config.models import read_model
    from signer.errors import ConfigurationError, Refusal

    settings = read_model(TraceSettings, container.environ)
    if settings.url is None:
        return None
    try:
        from api.extras.open_telemetry.tracer import open_exporter
    except ModuleNotFoundError as e:
        missing = f"TRACES_URL needs {e.name}: pip install 'hotwallet[otel]'"
        raise ConfigurationError(Refusal("settings-invalid", missing)) from None
    return open_exporter(settings.url, settings.share, container.ledger_clock)
