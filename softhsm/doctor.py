"""The checks of ``hotwallet softhsm doctor``, from the module to a signature."""

import ctypes
import os
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path

from backends.pkcs11 import PKCS11Backend
from backends.pkcs11.cryptoki import Library, Locking
from signer.config.settings import Settings
from signer.diagnostics import Check, Finding
from signer.errors import BackendError, BackendUnavailableError
from signer.ports.key_backend import KeyId
from signer.redact import key_prefix
from softhsm import keys, library
from softhsm.layout import pin_source
from softhsm.plugin import prepare


_INIT = "run: hotwallet softhsm init"


def token_checks(settings: Settings) -> Iterator[Check]:
    """Yield the checks of the token, each of which needs the one before it."""
    token = _Token(settings)
    needs: tuple[str, ...] = ()
    for name, run, cure in _CHECKS:
        yield Check(name, partial(_find, run, token), cure, needs)
        needs = (name,)


def _find(run: "Callable[[_Token], str]", token: "_Token") -> Finding:
    return Finding(run(token))


class _Token:
    """The configured token, opened as each check needs it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._key_id = KeyId(settings.pkcs11_key_id)

    def find_module(self) -> str:
        return str(self._module)

    def load_module(self) -> str:
        prepare(self._settings)
        try:
            ctypes.CDLL(os.path.realpath(self._module))
        except OSError as e:
            # The loader's own words, which name a missing library.
            raise BackendError(f"the PKCS#11 module does not load: {e}") from None
        with self._library.lock.exclusive():
            self._library.initialize()
        module = self._library.module
        return "{} {}.{}".format(module.manufacturer, *module.version)

    def check_locking(self) -> str:
        if self._library.locking is Locking.MODULE:
            return "threads sign at the same time"
        return "the module cannot lock: threads sign one after the other"

    def find_token(self) -> str:
        with self._library.lock:
            try:
                return self._library.token(self._settings.pkcs11_token_label).label
            except BackendUnavailableError as e:
                tokens = self._library.functions.tokens()
                labels = ", ".join(repr(each.label) for each in tokens) or "no token"
                raise BackendError(f"{e}; the module has {labels}") from None

    def read_pin(self) -> str:
        pin_source(self._settings)()
        return "only its owner can read it"

    def log_in(self) -> str:
        self._backend.provision(lambda _: None)
        return "the PIN is right"

    def find_key(self) -> str:
        self._backend.public_key(self._key_id)
        return f"id {key_prefix(self._key_id)}"

    def check_origin(self) -> str:
        for key in keys.list_keys(self._backend):
            if key.key_id == self._key_id and not key.attributes["never_extractable"]:
                return "cannot be extracted; it was imported, so copies may exist"
        return "was generated in the token, and cannot be extracted"

    def sign(self) -> str:
        return keys.self_test(self._backend, self._key_id)

    @cached_property
    def _module(self) -> Path:
        return library.require_module(self._settings)

    @property
    def _library(self) -> Library:
        return Library.of(os.path.realpath(self._module))

    @cached_property
    def _backend(self) -> PKCS11Backend:
        return PKCS11Backend(
            self._module,
            self._settings.pkcs11_token_label,
            pin_source(self._settings),
        )


_CHECKS: tuple[tuple[str, Callable[[_Token], str], str], ...] = (
    ("module", _Token.find_module, _INIT),
    (
        "loads",
        _Token.load_module,
        f"check PKCS11_MODULE and SOFTHSM2_CONF, or {_INIT}",
    ),
    ("locking", _Token.check_locking, ""),
    ("token", _Token.find_token, f"check PKCS11_TOKEN_LABEL, or {_INIT}"),
    ("pin", _Token.read_pin, "chmod 600 the file, or check PKCS11_PIN_FILE"),
    ("login", _Token.log_in, "check PKCS11_PIN or PKCS11_PIN_FILE"),
    ("key", _Token.find_key, f"check PKCS11_KEY_ID, or {_INIT}"),
    ("guarded", _Token.check_origin, "make another key"),
    ("signs", _Token.sign, "make another key; this one does not sign"),
)
