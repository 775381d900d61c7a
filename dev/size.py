"""
Counts lines and files of production Python by feature: ``make size [SINCE=REVISION]``.

The core is what must be read to trust a payment: model, policy and its floor, keys and
the signer, cryptography, audit log, pipeline, ports, the SQL of the ledger, the client
of nodes, one key backend (AWS KMS), and the HTTP routes of refunds.  It should have at
most 26,000 lines.  Operation is what people need to run it: commands, the routes of
administrators, webhooks, metrics, the start.  A service can run without an extra.
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple


# The longest prefix of a path counts.
_FEATURES: Mapping[str, tuple[str, str]] = {
    "signer/": ("core", "model"),
    "signer/config/": ("core", "configuration"),
    "signer/policy/": ("core", "policy"),
    "signer/keys/": ("core", "keys and signer"),
    "signer/crypto/": ("core", "cryptography"),
    "signer/audit/": ("core", "audit"),
    "signer/chain/": ("core", "pipeline"),
    "signer/refunds/": ("core", "pipeline"),
    "signer/approv": ("core", "approvals"),
    "signer/ports/": ("core", "ports"),
    "signer/startup/": ("operation", "start and guard"),
    "signer/webhooks/": ("operation", "webhooks"),
    "signer/signing/": ("extra", "signing api"),
    "signer/clear_signing/": ("extra", "signing api"),
    "signer/crypto/typed_data": ("extra", "signing api"),
    "signer/crypto/transaction_json/": ("extra", "signing api"),
    "signer/account.py": ("extra", "library account"),
    "backends/": ("core", "clients"),
    "backends/sql/": ("core", "SQL"),
    "backends/json_rpc/": ("core", "node client"),
    "backends/aws_kms/": ("core", "AWS KMS"),
    "backends/kms_retries": ("core", "AWS KMS"),
    "backends/google_cloud_kms/": ("extra", "Google Cloud KMS"),
    "backends/pkcs11/": ("extra", "PKCS#11 and SoftHSM"),
    "backends/testing": ("extra", "PKCS#11 and SoftHSM"),
    "softhsm/": ("extra", "PKCS#11 and SoftHSM"),
    "backends/webhook_client": ("operation", "webhooks"),
    "backends/alert": ("operation", "metrics, health and alerts"),
    "api/": ("operation", "start and guard"),
    "api/auth/": ("core", "HTTP of refunds"),
    "api/views/": ("core", "HTTP of refunds"),
    "api/http/": ("core", "HTTP of refunds"),
    "api/http/openapi/": ("operation", "OpenAPI"),
    "api/cli/": ("operation", "command line"),
    "api/health/": ("operation", "metrics, health and alerts"),
    "api/metrics/": ("operation", "metrics, health and alerts"),
    **{
        f"api/http/{name}": ("operation", "routes of administrators")
        for name in (
            *("administration", "approvals", "deliveries", "keys", "metrics"),
            *("stops", "tenants"),
        )
    },
}
_PACKAGES = ("signer", "backends", "api", "softhsm")


class Size(NamedTuple):
    """Files and their lines."""

    files: int = 0
    lines: int = 0

    def plus(self, other: "Size") -> "Size":
        """Return the sum."""
        return Size(self.files + other.files, self.lines + other.lines)


Sizes = Mapping[tuple[str, str], Size]
"""By part and feature."""


def find_feature(path: str) -> tuple[str, str]:
    """
    Return the part and the feature of the file *path*.

    >>> find_feature("api/extras/top_ups/treasury.py")
    ('extra', 'top ups')
    >>> find_feature("signer/keys/signer.py")
    ('core', 'keys and signer')
    """
    _, _, extra = path.partition("api/extras/")
    if "/" in extra:
        return "extra", extra.partition("/")[0].replace("_", " ")
    longest = max((each for each in _FEATURES if path.startswith(each)), key=len)
    return _FEATURES[longest]


def measure(revision: str | None) -> Sizes:
    """Return the size of each feature in *revision*, or in the working tree."""
    sizes: dict[tuple[str, str], Size] = {}
    for path, lines in _count(revision):
        feature = find_feature(path)
        sizes[feature] = sizes.get(feature, Size()).plus(Size(1, lines))
    return sizes


def _count(revision: str | None) -> Iterator[tuple[str, int]]:
    # An empty pattern matches each line, the last one also without its end.
    command = [
        "git",
        "grep",
        "--count",
        "--text",
        "",
        *([revision] if revision else []),
    ]
    patterns = [f"{package}/**.py" for package in _PACKAGES]
    found = subprocess.run(
        [*command, "--", *patterns], capture_output=True, check=True, text=True
    )
    for line in found.stdout.splitlines():
        path, _, count = line.rpartition(":")
        yield path.removeprefix(f"{revision}:"), int(count)


def _print(now: Sizes, then: Sizes) -> None:
    for part in ("core", "operation", "extra"):
        features = sorted({each for each in {**now, **then} if each[0] == part})
        _print_row(part.upper(), _sum(now, part), _sum(then, part) if then else None)
        for feature in features:
            before = then.get(feature, Size()) if then else None
            _print_row(f"  {feature[1]}", now.get(feature, Size()), before)
    _print_row("ALL", _sum(now), _sum(then) if then else None)


def _sum(sizes: Sizes, part: str | None = None) -> Size:
    total = Size()
    for (each, _), size in sizes.items():
        if part in {None, each}:
            total = total.plus(size)
    return total


def _print_row(name: str, now: Size, then: Size | None) -> None:
    change = ""
    if then is not None:
        change = f"{now.lines - then.lines:+8,} {now.files - then.files:+5}"
    print(f"{name:30} {now.lines:8,} {now.files:5} {change}")


if __name__ == "__main__":
    since = sys.argv[1] if len(sys.argv) > 1 else None
    print(f"{'':30} {'lines':>8} {'files':>5}" + (f"  since {since}" if since else ""))
    _print(measure(None), measure(since) if since else {})
