"""A treasury, another ``hotwallet`` service, tops up the wallet (``TREASURY_URL``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.extension import Extra
from signer.errors import ConfigurationError, Refusal


if TYPE_CHECKING:
    from api.container import Container
    from api.extras.top_ups.treasury import Treasury


EXTRA = Extra(
    name="top_ups",
    services={"treasury": "api.extras.top_ups:open_treasury"},
    start_checks="api.extras.top_ups:check_treasury",
    worker_loops="api.extras.top_ups.top_ups:worker_loops",
    doctor_checks="api.extras.top_ups.treasury:doctor_checks",
)


def open_treasury(container: Container) -> Treasury | None:
    """Return the client of the treasury, if one is configured."""
    from api.extras.top_ups.settings import TreasurySettings
    from signer.config.models import read_model

    settings = read_model(TreasurySettings, container.environ)
    if settings.url is None and settings.token_file is None:
        return None
    # Not above: its libraries are slow to import.
    from api.extras.top_ups.treasury import TreasuryClient

    return TreasuryClient(
        settings.url,
        settings.token_file,
        allow_http=not container.settings.is_production,
    )


def check_treasury(container: Container, *, paying: bool) -> None:
    """Refuse unusable settings, and thresholds of top-ups without a treasury."""
    treasury = open_treasury(container)
    is_needed = paying and any(each.topped_up for each in container.networks.values())
    if is_needed and treasury is None:
        problem = "top_up_below needs TREASURY_URL and TREASURY_TOKEN_FILE"
        raise ConfigurationError(Refusal("treasury-misconfigured", problem))
