"""The token's PINs: where they are stored, and who can read them."""

import secrets
from collections.abc import Callable
from pathlib import Path

from signer.config.settings import Settings
from signer.errors import AccessDeniedError
from signer.private_files import create_once, is_private
from softhsm.layout import Layout


_PIN_BYTES = 16


def pin_source(settings: Settings) -> Callable[[], str]:
    """
    Return a function that returns the user PIN.

    The PIN is ``PKCS11_PIN``, else in the file ``PKCS11_PIN_FILE``, else in the file
    that ``hotwallet softhsm init`` wrote.  Files are read when the token is opened.
    """
    pin = settings.pkcs11_pin
    if pin is not None:
        return pin.get_secret_value
    path = settings.pkcs11_pin_file or Layout.of(settings.home).pin
    return lambda: read_pin(path)


def read_pin(path: Path) -> str:
    """
    Return the PIN in the file at *path*, without surrounding white space.

    Raises:
        AccessDeniedError: The file cannot be read, is not text, or other users may
            access it.
    """
    try:
        with path.open("rb") as file:
            text = file.read().strip()
            private = is_private(file.fileno())
    except OSError:
        raise AccessDeniedError("the PIN file cannot be read") from None
    if not private:
        raise AccessDeniedError("other users may access the PIN file: chmod 600 it")
    try:
        return text.decode()
    except UnicodeError:  # Its message would quote the PIN.
        raise AccessDeniedError("the PIN file is not text") from None


def ensure_pin(path: Path) -> str:
    """Return the PIN in the file at *path*, which is created with a random one."""
    create_once(path, lambda: secrets.token_hex(_PIN_BYTES).encode() + b"\n")
    return read_pin(path)
