"""
The SoftHSM token of a developer's machine: find it, make it, look after it.

``layout`` says which files there are, ``library`` finds the module and ``fetch``
gets it, ``provision`` makes the token and ``keys`` what is inside, ``importing``
moves a raw key in, ``doctor`` explains what is wrong, and ``repair`` mends what a
``kill -9`` did.  Importing the package loads no PKCS#11 module, and not even
python-pkcs11.
"""

from collections.abc import Callable
from pathlib import Path

from signer.config.settings import Settings
from softhsm import library, pins
from softhsm import token_recovery as repair
from softhsm.layout import Layout, environment


__all__ = ["Layout", "environment", "prepare"]


def prepare(settings: Settings) -> tuple[Path, Callable[[], str]]:
    """
    Point this process to the token that *settings* mean; the module stays closed.

    Returns:
        The module, and what answers with the PIN: the first and the last argument
        of ``PKCS11Backend``.

    Raises:
        ConfigurationError: ``softhsm-missing``, ``softhsm-damaged``; the message
            says what to do.
    """
    environment(settings.home)
    repair.restore(Layout.of(settings.home))
    return library.require(settings), pins.source(settings)
