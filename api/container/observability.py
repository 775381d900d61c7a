"""The audit log, alerts and metrics of a process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from api.container.connections import ConnectionParts


if TYPE_CHECKING:
    from api.metrics.shared_meter import SharedMeter
    from api.metrics.worker_meter import WorkerMeter
    from signer.alerts import Alerts
    from signer.audit.log import AuditLog
    from signer.audit.sealing_monitor import SealingAlert
    from signer.config.settings import Settings
    from signer.ports.clock import Clock
    from signer.ports.meter import Meter


@dataclass(kw_only=True, eq=False, repr=False)
class ObservabilityParts(ConnectionParts):
    """What records, measures and alerts."""

    open_tracer: Callable[[Settings, Clock], Meter | None] = lambda *_: None

    @cached_property
    def audit(self) -> AuditLog:
        """The audit log, stored in the ledger."""
        from api.logs import audit_logger
        from signer.audit.log import AuditLog
        from signer.errors import ConfigurationError

        configuration = None
        with suppress(ConfigurationError):  # Operators act without a networks file too.
            configuration = self.configuration.short
        return AuditLog(
            audit_logger(),
            self.clock,
            journal=self.store,
            configuration=configuration,
        )

    @cached_property
    def alerts(self) -> Alerts:
        """Counts alerts and sends them to the webhook."""
        from signer.alerts import RUNBOOKS, Alerts

        return Alerts(
            self.store,
            self.notifier,
            self.clock,
            runbooks=self.settings.runbook_url or RUNBOOKS,
            environment=str(self.settings.app_env),
            source=f"hotwallet/{self.settings.audit_origin}",
        )

    @cached_property
    def sealing_alert(self) -> SealingAlert:
        """The alert of late sealing, which the sealer and ``/readyz`` share."""
        from signer.audit.sealing_monitor import SealingAlert

        return SealingAlert(self.alerts)

    @cached_property
    def meter(self) -> WorkerMeter:
        """Measures what this process does; only a worker stores it."""
        from api.metrics.names import Names
        from api.metrics.process import worker_figures
        from api.metrics.worker_meter import WorkerMeter
        from signer.errors import ConfigurationError

        networks, tenants = frozenset[str](), frozenset[str]()
        with suppress(ConfigurationError):  # Operators act without the files too.
            networks = frozenset(self.networks)
            tenants = frozenset(self.tenants.tenants or ())
        figures = worker_figures(self.store.connections)
        return WorkerMeter(Names(networks, tenants), figures=figures)

    def _observe_node(
        self, network: str, node: str, calls: Sequence[tuple[str, str]], seconds: float
    ) -> None:
        if "meter" in self.__dict__:  # A command measures nothing.
            self.meter.called(network, node, calls, seconds)

    @cached_property
    def shared_meter(self) -> SharedMeter:
        """Counts what this process decides, refuses and signs, for all together."""
        from api.metrics.shared_meter import SharedMeter

        return SharedMeter()

    def _with_traces(self, meter: Meter) -> Meter:
        from signer.ports.meter import Meters

        tracer = self.open_tracer(self.settings, self.ledger_clock)
        return meter if tracer is None else Meters(meter, tracer)
