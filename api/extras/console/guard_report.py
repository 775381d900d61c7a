"""What the start-up guard says about the settings of this process."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from api.container import Container
from signer.config.settings import Environment
from signer.errors import ConfigurationError, Refusal
from signer.startup.guard import check_settings


@dataclass(frozen=True, slots=True)
class GuardState:
    """
    The guard's *warnings*, and what it would refuse in production.

    A process that runs has passed the guard.
    """

    warnings: Sequence[str]
    in_production: Sequence[Refusal]


def read_guard(container: Container) -> GuardState:
    """Run the guard's checks of the settings again; they open nothing."""
    settings, networks = container.settings, container.networks
    strict = settings.model_copy(update={"app_env": Environment.PRODUCTION})
    refused: list[Refusal] = []
    for check in (
        partial(check_settings, strict, networks),
        partial(container.check_backend, strict),
    ):
        try:
            check()
        except ConfigurationError as e:
            refused += e.refusals
    try:
        warnings = check_settings(settings, networks)
        warnings += container.check_backend(settings)
    except ConfigurationError as e:  # The files were changed after the start.
        warnings = [str(refusal) for refusal in e.refusals]
    return GuardState(warnings, refused)
