"""The report of ``hotwallet hsm prove``: what a device showed of itself and a key."""

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from typing import Any

from backends.pkcs11 import PKCS11Backend
from signer.config.settings import Settings
from signer.crypto.der import parse_public_key, parse_signature
from signer.crypto.secp256k1 import DIGEST_SIZE, N, recoverable
from signer.diagnostics import State, run_checks
from signer.ports.key_backend import KeyId
from softhsm.doctor import token_checks
from softhsm.plugin import prepare


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
