"""Points this process to the token that the settings name."""

from collections.abc import Callable
from pathlib import Path

from signer.config.settings import Settings
from softhsm import library, pins, token_recovery
from softhsm.layout import Layout, use_project_conf


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
