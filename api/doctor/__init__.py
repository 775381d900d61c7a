"""
The checks of ``hotwallet doctor``, from the settings to a mined transaction.

It imports ``signer`` and gets the functions that open backends as parameters.
"""

from collections.abc import Iterator

from api.doctor.context import DoctorContext, Openers
from api.doctor.network_checks import network_checks
from api.doctor.system_checks import system_checks
from signer.checks import Check


__all__ = ["DoctorContext", "Openers", "all_checks"]


def all_checks(context: DoctorContext) -> Iterator[Check]:
    """Yield every check; later ones depend on what the earlier ones have found."""
    yield from system_checks(context)
    yield from network_checks(context)
