"""PINs: where they come from, and who may read them."""

import secrets
from collections.abc import Callable
from pathlib import Path

from signer.config.settings import Settings
from signer.errors import AccessDeniedError
from signer.private_files import create_once, is_private
from softhsm.layout import Layout


_PIN_BYTES = 16


def source(settings: Settings) -> Callable[[], str]:
    """
    Return what answers with the user's PIN.

    That is ``PKCS11_PIN``, else the file ``PKCS11_PIN_FILE``, else the file that
    ``hotwallet softhsm init`` wrote.  Files are read when the token is opened.
    """
    pin = settings.pkcs11_pin
    if pin is not None:
        return pin.get_secret_value
    path = settings.pkcs11_pin_file or Layout.of(settings.home).pin
    return lambda: read(path)


def read(path: Path) -> str:
    """
    Return the PIN in *path*, without white space around it.

    Raises:
        AccessDeniedError: It cannot be read, or others may read it, too.
    """
    try:
        with path.open("rb") as file:
            text = file.read().strip()
            private = is_private(file.fileno())
    except OSError:
        raise AccessDeniedError("the PIN file cannot be read") from None
    if not private:
        raise AccessDeniedError("others may access the PIN file: chmod 600 it")
    try:
        return text.decode()
    except UnicodeError:  # It would quote the PIN.
        raise AccessDeniedError("the PIN file is not text") from None


def ensure(path: Path) -> str:
    """Return the PIN in *path*; make a random one if there is none yet."""
    create_once(path, lambda: secrets.token_hex(_PIN_BYTES).encode() + b"\n")
    return read(path)
