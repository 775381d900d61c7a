"""The checks of ``hotwallet softhsm doctor``, and the report of ``hsm prove``."""

import ctypes
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from backends.pkcs11 import PKCS11Backend
from backends.pkcs11.cryptoki import Library, Locking
from signer.config.settings import Settings
from signer.crypto.der import parse_public_key, parse_signature
from signer.crypto.secp256k1 import DIGEST_SIZE, N, recoverable
from signer.diagnostics import Check, Finding, State, run_checks
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


FORMAT = "hotwallet HSM report 1"


def make_report(settings: Settings, now: datetime, signatures: int) -> dict[str, Any]:
    """
    Return the report about the configured key, after so many *signatures*.

    It has no PIN, no label, no serial number and no path.  ``refusals`` are those of
    production; the device and the key are missing if a check failed.
    """
    checks = [*run_checks(token_checks(settings))]
    report: dict[str, Any] = {
        "format": FORMAT,
        "made_at": now.isoformat(timespec="seconds"),
        "hotwallet": version("hotwallet"),
        "system": os.uname().sysname,
        "checks": [{"name": each.name, "state": each.state} for each in checks],
    }
    if any(each.state is State.FAILED for each in checks):
        return report | {"is_proved": False}
    module, pin = prepare(settings)
    backend = PKCS11Backend(module, settings.pkcs11_token_label, pin)
    key_id = KeyId(settings.pkcs11_key_id)
    facts = backend.examine(key_id)
    signed = _sign(backend, key_id, signatures)
    return report | {
        "module_sha256": hashlib.sha256(module.read_bytes()).hexdigest(),
        "device": facts.names,
        "address": parse_public_key(backend.public_key(key_id)).address,
        "attributes": facts.attributes,
        "signatures": signed,
        "refusals": [asdict(each) for each in facts.weaknesses],
        "is_proved": not facts.weaknesses,
    }


def _sign(backend: PKCS11Backend, key_id: KeyId, count: int) -> dict[str, Any]:
    public_key = parse_public_key(backend.public_key(key_id))
    high, times = 0, list[float]()
    for _ in range(count):
        digest = secrets.token_bytes(DIGEST_SIZE)
        began = time.perf_counter()
        der = backend.sign_digest(key_id, digest).der
        times.append(1000 * (time.perf_counter() - began))
        r, s = parse_signature(der)
        recoverable(r, s, digest, public_key)  # Raises an error if it is not valid.
        high += s > N // 2
    times.sort()
    return {
        "valid": len(times),
        "with_high_s": high,
        "median_ms": round(times[count // 2], 3),
        "slowest_ms": round(times[-1], 3),
    }


def lines(report: dict[str, Any]) -> Iterator[str]:
    failed = [each["name"] for each in report["checks"] if each["state"] == "failed"]
    if failed:
        yield f"not proved: the check {failed[0]} failed; run: hotwallet softhsm doctor"
        return
    device, signed = report["device"], report["signatures"]
    yield f"device      {device['token']}, {device['module']}"
    yield f"address     {report['address']}"
    yield f"signatures  {signed['valid']} valid, {signed['median_ms']} ms each"
    for refusal in report["refusals"]:
        yield f"refused     {refusal['code']}: {refusal['message']}"
    if report["is_proved"]:
        yield "proved: production may sign with this key"
    else:
        yield "not proved: production refuses this key"
