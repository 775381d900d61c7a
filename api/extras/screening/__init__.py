"""A service of the operator's that screens recipients (``SCREENING_URL``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.extension import Extra


if TYPE_CHECKING:
    from api.container import Container
    from signer.ports.outside_services import ScreeningService


EXTRA = Extra(
    name="screening",
    services={"screening": "api.extras.screening:open_screening"},
    start_checks="api.extras.screening:check_screening",
    doctor_checks="api.extras.screening.client:doctor_checks",
)


def check_screening(container: Container, *, paying: bool) -> None:
    """Refuse unusable settings."""
    open_screening(container)


def open_screening(container: Container) -> ScreeningService | None:
    """Return the client of the service, if one is configured."""
    from api.extras.screening.settings import ScreeningSettings
    from signer.config.models import read_model

    settings = read_model(ScreeningSettings, container.environ)
    if settings.url is None:
        return None
    # Not above: its libraries are slow to import.
    from api.extras.screening.client import ScreeningClient

    return ScreeningClient(
        settings.url,
        settings.secret_file,
        allow_http=not container.settings.is_production,
        kept_seconds=settings.kept_seconds,
    )
