"""
``make bench``: the signer against the bare device, in one run.

A ratio is the bare call's median divided by ours: 1.00 would be free of charge.
"""

import argparse
import contextlib
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import structlog

from bench.measure import Action, interleaved, machine, throughput
from bench.refunds import refunds_per_second
from dev.stack import hotwallet
from signer.audit.log import AuditLog
from signer.chain.erc20 import encode_transfer
from signer.crypto.transactions import SignedBytes, Transaction
from signer.keys.signer import Signer
from signer.model.audit_record import Operation, Purpose
from signer.ports import KeyBackend, KeyId


_PURPOSE = Purpose(Operation.TRANSACTION_SIGNING, network="bench", actor="bench")
_TOKEN = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
_TRANSACTION = Transaction(
    chain_id=31337,
    nonce=7,
    max_priority_fee_per_gas=10**9,
    max_fee_per_gas=10**11,
    gas=80_000,
    to=_TOKEN,
    value=0,
    data=encode_transfer("0x70997970C51812dc3A010C7d01b50e0d17dc79C8", 12_500_000),
)


def main() -> int:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="per comparison")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-http", action="store_true", help="signatures only")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        for name, opened in (("pkcs11", _pkcs11(Path(folder))), ("aws-kms", _kms())):
            print(f"measuring {name} ...", file=sys.stderr)
            with opened as (bare, backend, key_id):
                results[name] = _compare(bare, backend, key_id, options.seconds)
        if not options.no_http:
            print("measuring refunds over HTTP ...", file=sys.stderr)
            results["http"] = refunds_per_second(Path(folder), options.seconds)
    print(json.dumps(results, indent=2) if options.json else _table(results))
    return 0


def _compare(
    bare: Action, backend: KeyBackend, key_id: KeyId, seconds: float
) -> Mapping[str, Any]:
    signer = Signer.open(backend, key_id, AuditLog(_logger()))
    actions: dict[str, Action] = {
        "bare call": bare,
        "backend.sign_digest": lambda: backend.sign_digest(key_id, os.urandom(32)),
        "Signer.sign_digest": lambda: signer.sign_digest(os.urandom(32), _PURPOSE),
        "whole transaction": lambda: _sign_transaction(signer),
    }
    timings = interleaved(actions, seconds=seconds)
    reference = timings["bare call"].median
    single = {
        name: {
            "median_us": round(timing.median, 1),
            "p95_us": round(timing.p95, 1),
            "ratio": round(reference / timing.median, 3),
        }
        for name, timing in timings.items()
    }
    per_second = {
        name: round(throughput(actions[name], threads=4, seconds=seconds / 4), 1)
        for name in ("backend.sign_digest", "Signer.sign_digest")
    }
    return {"single": single, "four_threads_per_second": per_second}


def _sign_transaction(signer: Signer) -> bytes:
    signature = signer.sign_digest(_TRANSACTION.signing_digest(), _PURPOSE)
    signed = SignedBytes.decode(_TRANSACTION.serialise(signature))
    if signed.transaction != _TRANSACTION:
        raise AssertionError("the signed bytes are not the transaction")
    return signed.raw


@contextlib.contextmanager
def _pkcs11(folder: Path) -> Iterator[tuple[Action, KeyBackend, KeyId]]:
    from pkcs11 import Attribute, Mechanism, ObjectClass, SignMixin  # noqa: PLC0415

    from backends.pkcs11 import PKCS11Backend  # noqa: PLC0415
    from backends.pkcs11.cryptoki import Library  # noqa: PLC0415
    from signer.config.settings import Settings  # noqa: PLC0415
    from softhsm import prepare  # noqa: PLC0415

    environ = {**os.environ, "APP_ENV": "test", "HOTWALLET_HOME": str(folder)}
    environ.pop("SOFTHSM2_CONF", None)
    made = json.loads(hotwallet(environ, "softhsm", "init", "--json"))
    settings = Settings.from_env(environ)
    module, pin = prepare(settings)
    backend = PKCS11Backend(module, settings.pkcs11_token_label, pin)
    key_id = KeyId(made["key_id"])
    backend.public_key(key_id)  # Logs the process in, for the bare session too.
    library = Library.of(os.path.realpath(module))
    session = library.token(settings.pkcs11_token_label).open()
    wanted = {
        Attribute.CLASS: ObjectClass.PRIVATE_KEY,
        Attribute.ID: bytes.fromhex(key_id),
    }
    (key,) = session.get_objects(wanted)
    if not isinstance(key, SignMixin):
        raise TypeError("the key cannot sign")
    yield (
        lambda: key.sign(os.urandom(32), mechanism=Mechanism.ECDSA),
        backend,
        key_id,
    )


@contextlib.contextmanager
def _kms() -> Iterator[tuple[Action, KeyBackend, KeyId]]:
    from backends.aws_kms import KMSBackend, build_client  # noqa: PLC0415
    from dev.kms_emulator import KMSEmulator  # noqa: PLC0415

    os.environ.update(
        AWS_ACCESS_KEY_ID="local",
        AWS_SECRET_ACCESS_KEY=secrets.token_hex(8),
        AWS_EC2_METADATA_DISABLED="true",
    )
    with KMSEmulator() as emulator:
        client = build_client(
            region=emulator.region,
            endpoint_url=emulator.endpoint,
            max_retries=1,
            timeout_ms=9_000,
            max_pool_connections=4,
        )
        key_id = KeyId(emulator.create_key())
        backend = KMSBackend(client)
        yield (
            lambda: client.sign(
                KeyId=key_id,
                Message=os.urandom(32),
                MessageType="DIGEST",
                SigningAlgorithm="ECDSA_SHA_256",
            ),
            backend,
            key_id,
        )
        backend.close()


def _logger() -> Any:
    """Return a logger that does production's work and throws the lines away."""
    return structlog.wrap_logger(
        structlog.PrintLogger(StringIO()),
        processors=[structlog.processors.JSONRenderer()],
    )


def _table(results: Mapping[str, Any]) -> str:
    lines = [results["machine"], ""]
    for backend in ("pkcs11", "aws-kms"):
        lines.append(f"{backend:<22} {'median µs':>10} {'p95 µs':>10} {'ratio':>7}")
        for name, row in results[backend]["single"].items():
            lines.append(
                f"  {name:<20} {row['median_us']:>10} {row['p95_us']:>10} "
                f"{row['ratio']:>7.2f}"
            )
        for name, rate in results[backend]["four_threads_per_second"].items():
            lines.append(f"  {name:<20} {rate:>10} a second in 4 threads")
        lines.append("")
    if "http" in results:
        lines.append("refunds over HTTP, SQLite, anvil")
        lines += [f"  {name:<32} {value}" for name, value in results["http"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
