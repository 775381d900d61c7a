"""
The SoftHSM token of a developer's machine: find it, make it, look after it.

``layout`` says which files there are, ``library`` finds the module and ``fetch``
gets it, ``provision`` makes the token and ``keys`` what is inside, ``doctor``
explains what is wrong.  Importing the package loads no PKCS#11 module, and not
even python-pkcs11.
"""

from collections.abc import Callable
from pathlib import Path

from signer.settings import Settings
from softhsm import library, pins
from softhsm.layout import Layout, environment


__all__ = ["Layout", "environment", "prepare"]


def prepare(settings: Settings) -> tuple[Path, Callable[[], str]]:
    """
    Point this process to the token that *settings* mean; nothing is opened.

    Returns:
        The module, and what answers with the PIN: the first and the last argument
        of ``PKCS11Backend``.

    Raises:
        ConfigurationError: ``softhsm-missing``, with the line that installs it.
    """
    environment(settings.home)
    return library.require(settings), pins.source(settings)
