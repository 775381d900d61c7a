"""
The SoftHSM token of a developer's machine, for development and tests.

It may import ``backends.pkcs11`` and ``signer``.  Importing the package loads neither
a PKCS#11 module nor python-pkcs11.
"""

from collections.abc import Callable
from pathlib import Path

from signer.config.settings import Settings
from softhsm import library, pins, token_recovery
from softhsm.layout import Layout, use_project_conf


__all__ = ["Layout", "prepare", "use_project_conf"]


def prepare(settings: Settings) -> tuple[Path, Callable[[], str]]:
    """
    Point this process to the configured token; the module is not loaded yet.

    Returns:
        The path of the module and a function that returns the PIN: the first and the
        last argument of ``PKCS11Backend``.

    Raises:
        ConfigurationError: SoftHSM is not installed (``softhsm-missing``), or a file
            of the token is damaged (``softhsm-damaged``).
    """
    use_project_conf(settings.home)
    token_recovery.restore(Layout.of(settings.home))
    return library.require_module(settings), pins.pin_source(settings)
