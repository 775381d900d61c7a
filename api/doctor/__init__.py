"""
The checks of ``hotwallet doctor``, from the settings to a mined transaction.

The container that they share opens what they check.
"""

from collections.abc import Iterator

from api.doctor.context import DoctorContext
from api.doctor.network_checks import network_checks
from api.doctor.system_checks import system_checks
from signer.diagnostics import Check


def all_checks(context: DoctorContext) -> Iterator[Check]:
    """Yield every check; later ones depend on what the earlier ones have found."""
    yield from system_checks(context)
    yield from network_checks(context)
