"""The audit log is shipped to a place that we do not administer (``AUDIT_SHIP_TO``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from api.extension import Extra
from signer.errors import ConfigurationError, InvalidInputError, Refusal


if TYPE_CHECKING:
    from api.background_threads import Run
    from api.container import Container
    from api.extras.audit_shipping.places import Place
    from signer.diagnostics import Check


EXTRA = Extra(
    name="audit_shipping",
    shipped_log="api.extras.audit_shipping.reader:open_log",
    services={"shipping": "api.extras.audit_shipping:open_place"},
    start_checks="api.extras.audit_shipping:check_place",
    worker_loops="api.extras.audit_shipping:worker_loops",
    doctor_checks="api.extras.audit_shipping:doctor_checks",
)


def open_place(container: Container) -> Place | None:
    """Return the place that the log is shipped to, if one is configured."""
    from api.extras.audit_shipping import places
    from api.extras.audit_shipping.settings import ShippingSettings
    from signer.config.models import read_model

    settings = read_model(ShippingSettings, container.environ)
    if settings.to is None:
        return None
    try:
        return places.open_place(settings.to, settings.endpoint, settings.region)
    except InvalidInputError as e:
        problem = f"AUDIT_SHIP_TO {e}"
    raise ConfigurationError(Refusal("settings-invalid", problem))


def check_place(container: Container, *, paying: bool) -> None:
    """Refuse unusable settings; nothing is sent."""
    place = open_place(container)
    if paying and place is None and container.settings.audit_ship_max_lag:
        problem = "AUDIT_SHIP_MAX_LAG needs AUDIT_SHIP_TO"
        raise ConfigurationError(Refusal("settings-invalid", problem))
    if paying and place is not None and container.checkpoint_settings is None:
        problem = "AUDIT_SHIP_TO needs AUDIT_SIGNING_KEY_FILE"
        raise ConfigurationError(Refusal("settings-invalid", problem))


def worker_loops(container: Container) -> Iterator[tuple[str, Run]]:
    """Yield the loop that ships the log; without a place, record that nothing is."""
    from api.extras.audit_shipping.shipper import Shipper, record_no_place

    place, checkpoints = open_place(container), container.checkpoint_settings
    if place is None or checkpoints is None:
        record_no_place(container.store)
        return
    shipper = Shipper(
        container.store,
        place,
        checkpoints,
        container.alerts,
        container.ledger_clock,
        sealed_at=lambda: container.sealer.sealed_at,
        patience=container.standby,
    )
    yield "audit-shipper", shipper.run


def doctor_checks(container: Container) -> Iterator[Check]:
    """Yield the check whether the log is shipped, and nothing there can be deleted."""
    from functools import partial

    from api.extras.audit_shipping.shipper import check_shipping
    from signer.diagnostics import EXPLAIN, Check

    yield Check("shipping", partial(check_shipping, container), EXPLAIN, ("database",))
