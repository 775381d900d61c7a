"""
Message authentication codes (MACs) of the ledger's rows.

A MAC is an HMAC-SHA-256 (RFC 2104) under a key that is not in the database.  So a party
that can only write rows cannot create a refund, change what one pays, change which key
pays, or invent an audit record.  Each MAC names its key, so the key can be rotated.
"""

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from signer.errors import ConfigurationError, Refusal, RowNotAuthenticError
from signer.model.audit_record import Record
from signer.model.key import Key
from signer.model.refund import Refund
from signer.private_files import is_private


_LINE = re.compile(r"([A-Za-z0-9_-]{1,32}) ([0-9a-f]{64})")

# What a refund pays, to whom, for whom, and since when.  All of it is permanent.
_REFUND = (
    "id",
    "tenant",
    "idempotency_key",
    "fingerprint",
    "reference",
    "payment_session_id",
    "network",
    "chain_id",
    "token",
    "token_address",
    "decimals",
    "recipient",
    "amount",
    "reason",
    "created_at",
)

_KEY = tuple(field.name for field in fields(Key) if field.name != "mac")

_RECORD = ("id", "body")


class RowMACs:
    """Makes and verifies the MACs of rows; safe for threads."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """Make MACs with the first of *keys*, by id, and verify them with all."""
        self._keys = dict(keys)
        self._current = next(iter(self._keys))

    def __repr__(self) -> str:
        return "RowMACs()"

    @classmethod
    def load(cls, path: Path) -> Self:
        """
        Read keys from a file that is its owner's alone.

        Each line has an id, a space, and 32 bytes in hex.  The first key makes new
        MACs; the others only verify.

        Raises:
            ConfigurationError: ``mac-key-invalid``.
        """
        problem = "each line must have an id, a space, and 64 hex digits"
        try:
            with path.open("rb") as file:
                if not is_private(file.fileno()):
                    raise _invalid("other users can access the file: chmod 600")
                text = file.read().decode("ascii")
        except OSError as e:
            raise _invalid(f"the file cannot be read ({type(e).__name__})") from None
        except UnicodeDecodeError:
            raise _invalid(problem) from None
        found = [_LINE.fullmatch(line) for line in text.splitlines()]
        keys = {each[1]: bytes.fromhex(each[2]) for each in found if each is not None}
        if not found or len(keys) != len(found):
            raise _invalid(f"{problem}, and ids must differ")
        return cls(keys)

    @staticmethod
    def generate() -> bytes:
        """Return the content of a new file for ``load``."""
        return f"{secrets.token_hex(4)} {secrets.token_hex(32)}\n".encode()

    def of_refund(self, refund: Refund) -> str:
        """Return the MAC of what *refund* pays; statuses and nonces are not part."""
        return self._make("refund", refund, _REFUND)

    def of_key(self, key: Key) -> str:
        """Return the MAC of a row of the key ring, its version included."""
        return self._make("key", key, _KEY)

    def of_record(self, record: Record) -> str:
        """Return the MAC of an audit record."""
        return self._make("audit record", record, _RECORD)

    def require_refund(self, refund: Refund) -> None:
        """Raise ``RowNotAuthenticError`` unless *refund* has its MAC."""
        if not self._is_valid(refund.mac, "refund", refund, _REFUND):
            raise RowNotAuthenticError(f"the row of refund {refund.id} was changed")

    def require_key(self, key: Key) -> None:
        """Raise ``RowNotAuthenticError`` unless *key* has its MAC."""
        if not self._is_valid(key.mac, "key", key, _KEY):
            raise RowNotAuthenticError(
                f"the row of the key of {key.address} was changed"
            )

    def is_record(self, record: Record, mac: str | None) -> bool:
        """Return whether *mac* is the MAC of *record*."""
        return self._is_valid(mac, "audit record", record, _RECORD)

    def is_current(self, mac: str | None) -> bool:
        """Return whether the first key made *mac*, which is not verified."""
        return (mac or "").startswith(f"{self._current}:")

    def _make(self, kind: str, row: object, names: tuple[str, ...]) -> str:
        return self._with(self._current, kind, row, names)

    def _is_valid(
        self, mac: str | None, kind: str, row: object, names: tuple[str, ...]
    ) -> bool:
        key_id = (mac or "").partition(":")[0]
        if mac is None or key_id not in self._keys:
            return False
        expected = self._with(key_id, kind, row, names)
        return hmac.compare_digest(mac.encode(errors="replace"), expected.encode())

    def _with(self, key_id: str, kind: str, row: object, names: tuple[str, ...]) -> str:
        """Return the MAC under one key: its id, a colon, and 64 hex digits."""
        # The kind comes first, so that the MAC of one kind of row fits no other.
        content = [f"hotwallet {kind} 1", *(_plain(getattr(row, n)) for n in names)]
        message = json.dumps(content, separators=(",", ":")).encode()
        return (
            f"{key_id}:{hmac.digest(self._keys[key_id], message, hashlib.sha256).hex()}"
        )


def _plain(value: Any) -> Any:
    """Return *value* as JSON holds it: times as text, and the rest as it is."""
    is_time = isinstance(value, datetime)
    return value.isoformat(timespec="microseconds") if is_time else value


def _invalid(problem: str) -> ConfigurationError:
    return ConfigurationError(Refusal("mac-key-invalid", f"MAC_KEY_FILE: {problem}"))
