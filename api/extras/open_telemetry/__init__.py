"""
Traces of refunds, for OpenTelemetry, if ``TRACES_URL`` is set.

They need the packages of ``hotwallet[otel]``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from api.extension import Extra
from signer.errors import ConfigurationError, Refusal


if TYPE_CHECKING:
    from pydantic import SecretStr

    from api.container import Container
    from signer.ports.meter import Meter

EXTRA = Extra(
    name="open_telemetry",
    services={"tracer": "api.extras.open_telemetry:open_tracer"},
    start_checks="api.extras.open_telemetry:require_packages",
)


def require_packages(container: Container, *, paying: bool = False) -> None:
    """
    Check that traces can be sent, if they are configured.

    Raises:
        ConfigurationError: ``settings-invalid``: packages are missing.
    """

    if container.settings.traces_url is None:
        return
    try:
        import_module("api.extras.open_telemetry.tracer")
    except ModuleNotFoundError as e:
        missing = f"TRACES_URL needs {e.name}: pip install 'hotwallet[otel]'"
        raise ConfigurationError(Refusal("settings-invalid", missing)) from None


def open_tracer(container: Container, url: SecretStr) -> Meter:
    """Return what sends traces of refunds; call it after the fork."""
    require_packages(container)
    from api.extras.open_telemetry.tracer import open_exporter

    return open_exporter(url, container.settings.traces_share, container.ledger_clock)
