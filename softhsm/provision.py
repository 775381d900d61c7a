"""Creates the project's token; idempotent, and safe to kill at any moment."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pkcs11 import TokenFlag, UserType

from backends.pkcs11 import PKCS11Backend
from backends.pkcs11.cryptoki import Library
from backends.pkcs11.functions import CryptokiError, Session
from signer.config.settings import Settings
from signer.errors import (
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    Refusal,
)
from signer.ports.key_backend import KeyId
from signer.private_files import sync
from softhsm import keys
from softhsm.layout import (
    CONF_VARIABLE,
    Layout,
    back_up,
    ensure_pin,
    pin_source,
    read_pin,
    restore_copies,
    use_project_conf,
)


_LABEL_BYTES = 32


@dataclass(frozen=True, slots=True)
class ProvisionedKey:
    """The key that ``init`` created or found."""

    address: str
    key_id: str = field(repr=False)
    token_label: str
    module: Path
    conf: Path
    pin_file: Path | None

    def environment(self) -> dict[str, str]:
        variables = {
            CONF_VARIABLE: self.conf,
            "PKCS11_MODULE": self.module,
            "PKCS11_TOKEN_LABEL": self.token_label,
            "PKCS11_PIN_FILE": self.pin_file,
            "PKCS11_KEY_ID": self.key_id,
            "WALLET_ADDRESS": self.address,
        }
        return {name: str(value) for name, value in variables.items() if value}


def init(
    settings: Settings, module: Path, *, label: str = "hotwallet"
) -> ProvisionedKey:
    """Create a token and a key in it unless they exist, and test that the key signs."""
    layout = Layout.of(settings.home)
    key_id = KeyId(settings.pkcs11_key_id)
    with layout.locked():
        backend = ensure_token(settings, module)
        keys.ensure_key(backend, key_id, label)
        address = keys.self_test(backend, key_id)
        # SoftHSM does not fsync.  The address may receive money as soon as it is
        # printed, so the key must be on disk before that.
        os.sync()
    return ProvisionedKey(
        address=address,
        key_id=key_id,
        token_label=settings.pkcs11_token_label,
        module=module,
        conf=layout.conf,
        pin_file=_pin_file(settings, layout),
    )


def ensure_token(settings: Settings, module: Path) -> PKCS11Backend:
    """
    Return the token, which is created if there is none; the caller holds the lock.

    Raises:
        ConfigurationError: ``SOFTHSM2_CONF`` points to another token
            (``softhsm-elsewhere``); there is no token, and the module is not SoftHSM
            (``softhsm-other-module``); or a file is damaged (``softhsm-damaged``).
        BackendError: The module does not load, or refuses an operation.
    """
    layout = Layout.of(settings.home)
    layout.prepare()
    restore_copies(layout)
    back_up(layout.tokens)
    _claim_environment(settings, layout)
    pin_file = _pin_file(settings, layout)
    # The PINs must be on disk before there is a token that only they can open.
    for path in filter(None, (pin_file, layout.so_pin)):
        ensure_pin(path)
    pin = pin_source(settings)
    library = Library.of(os.path.realpath(module))
    if not _has_token(library, settings.pkcs11_token_label):
        _make_token(library, layout, settings.pkcs11_token_label, pin())
    return PKCS11Backend(module, settings.pkcs11_token_label, pin)


def _claim_environment(settings: Settings, layout: Layout) -> None:
    if use_project_conf(settings.home).absolute() != layout.conf:
        raise ConfigurationError(
            Refusal(
                "softhsm-elsewhere",
                f"{CONF_VARIABLE} points to another token than the project's; unset it",
            )
        )


def _pin_file(settings: Settings, layout: Layout) -> Path | None:
    if settings.pkcs11_pin is not None:
        return None
    return (settings.pkcs11_pin_file or layout.pin).absolute()


def _has_token(library: Library, label: str) -> bool:
    with library.lock.exclusive(), _translate_errors():
        library.initialize()
        try:
            library.token(label)
        except BackendUnavailableError:
            return False
        return True


def _make_token(library: Library, layout: Layout, label: str, pin: str) -> None:
    """
    Create a token in the staging folder, and rename it into place when complete.

    From the start of ``C_InitToken`` to the end of ``C_InitPIN`` the token exists, but
    no user can log in to it.  No other process must see it in that state.
    """
    _check_can_make(library, label)
    shutil.rmtree(layout.staging, ignore_errors=True)
    stage = Layout(layout.staging)
    stage.prepare()
    with library.lock.exclusive(), _translate_errors():
        with _use_configuration(library, stage.conf):
            _init_token(library, label, so_pin=read_pin(layout.so_pin), pin=pin)
        back_up(stage.tokens)
        os.sync()
        for token in stage.tokens.iterdir():
            token.rename(layout.tokens / token.name)
        sync(layout.tokens)
    shutil.rmtree(layout.staging)


def _check_can_make(library: Library, label: str) -> None:
    if len(label.encode()) > _LABEL_BYTES or label.startswith("pkcs11:"):
        raise ConfigurationError(
            Refusal(
                "settings-invalid",
                "no token fits PKCS11_TOKEN_LABEL, and a new one needs a label of at"
                " most 32 bytes",
            )
        )
    if library.module.manufacturer != "SoftHSM":
        # Initialising a real device's token would erase its keys.
        raise ConfigurationError(
            Refusal(
                "softhsm-other-module",
                "the module is not SoftHSM: create its token with its vendor's tools",
            )
        )


def _init_token(library: Library, label: str, *, so_pin: str, pin: str) -> None:
    for token in library.functions.tokens():
        if not token.flags & TokenFlag.TOKEN_INITIALIZED:
            # Not with softhsm2-util: every user can see a program's arguments.
            library.functions.init_token(token.slot, so_pin, label)
            break
    session = Session(library.functions, library.token(label), read_write=True)
    session.log_in(so_pin, UserType.SO)
    session.init_pin(pin)
    session.close()


@contextmanager
def _use_configuration(library: Library, conf: Path) -> Iterator[None]:
    """Run SoftHSM with another configuration file; finalize it afterwards."""
    before = os.environ[CONF_VARIABLE]
    os.environ[CONF_VARIABLE] = str(conf)
    try:
        library.reset()
        yield
    finally:
        library.finalize()
        os.environ[CONF_VARIABLE] = before


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except CryptokiError as e:
        raise BackendError(
            f"SoftHSM refused ({e}); run: hotwallet softhsm doctor"
        ) from e
