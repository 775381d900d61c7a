"""Finds out what is wrong with a token, one rung of a ladder after the other."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pkcs11.exceptions import PKCS11Error

from backends.pkcs11 import PKCS11Backend
from backends.pkcs11.cryptoki import Library, Locking
from signer.config.settings import Settings
from signer.errors import HotWalletError
from signer.ports import KeyId
from signer.redact import key_prefix
from softhsm import keys, library, pins, prepare


_INIT = "run: hotwallet softhsm init"


@dataclass(frozen=True, slots=True)
class Rung:
    """
    One thing that must be right.

    ``state`` is ``ok``, ``failed``, or ``unknown`` for what stands above a failure.
    ``detail`` says what was found, ``cure`` what to do about it.
    """

    name: str
    state: str
    detail: str = ""
    cure: str = ""


def examine(settings: Settings) -> list[Rung]:
    """Return every rung, from the ground up."""
    return list(_climb(_Patient(settings)))


def _climb(patient: "_Patient") -> Iterator[Rung]:
    failed = False
    for name, look, cure in _LADDER:
        if failed:
            yield Rung(name, "unknown")
            continue
        try:
            yield Rung(name, "ok", look(patient))
        except (HotWalletError, PKCS11Error) as e:
            failed = True
            # A device's own words may say too much; the class says enough.
            said = str(e) if isinstance(e, HotWalletError) else type(e).__name__
            yield Rung(name, "failed", said, cure)


class _Patient:
    """The token that the settings mean, opened as far as it goes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._key_id = KeyId(settings.pkcs11_key_id)

    def find_module(self) -> str:
        return str(self._module)

    def load(self) -> str:
        prepare(self._settings)
        with self._library.lock.exclusive():
            self._library.initialize()
        module = self._library.module
        major, minor = module.library_version
        return f"{module.manufacturer_id} {major}.{minor}"

    def lock(self) -> str:
        if self._library.locking is Locking.MODULE:
            return "threads sign at the same time"
        return "the module cannot lock: threads sign one after the other"

    def find_token(self) -> str:
        with self._library.lock:
            return str(self._library.token(self._settings.pkcs11_token_label))

    def read_pin(self) -> str:
        pins.source(self._settings)()
        return "only its owner can read it"

    def log_in(self) -> str:
        self._backend.provision(lambda _: None)
        return "the PIN is right"

    def find_key(self) -> str:
        self._backend.public_key(self._key_id)
        return f"id {key_prefix(self._key_id)}"

    def judge_key(self) -> str:
        for key in keys.listed(self._backend):
            if key.key_id == self._key_id and not key.attributes["never_extractable"]:
                return "guarded from now on; it was imported, so copies may exist"
        return "it never was outside of the token, and never will be"

    def sign(self) -> str:
        return keys.prove(self._backend, self._key_id)

    @cached_property
    def _module(self) -> Path:
        return library.require(self._settings)

    @property
    def _library(self) -> Library:
        return Library.of(os.path.realpath(self._module))

    @cached_property
    def _backend(self) -> PKCS11Backend:
        return PKCS11Backend(
            self._module,
            self._settings.pkcs11_token_label,
            pins.source(self._settings),
        )


_LADDER: tuple[tuple[str, Callable[[_Patient], str], str], ...] = (
    ("module", _Patient.find_module, _INIT),
    ("loads", _Patient.load, f"check PKCS11_MODULE and SOFTHSM2_CONF, or {_INIT}"),
    ("locking", _Patient.lock, ""),
    ("token", _Patient.find_token, f"check PKCS11_TOKEN_LABEL, or {_INIT}"),
    ("pin", _Patient.read_pin, "chmod 600 the file, or check PKCS11_PIN_FILE"),
    ("login", _Patient.log_in, "check PKCS11_PIN or PKCS11_PIN_FILE"),
    ("key", _Patient.find_key, f"check PKCS11_KEY_ID, or {_INIT}"),
    ("guarded", _Patient.judge_key, "make another key"),
    ("signs", _Patient.sign, "make another key; this one does not sign"),
)
