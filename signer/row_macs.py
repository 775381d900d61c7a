"""
Message authentication codes (MACs) of the ledger's rows.

A MAC is an HMAC-SHA-256 (RFC 2104) under a key that is not in the database.  So a party
that can only write rows cannot create a refund, change what one pays, change which key
pays, lift a stop, end the pause of a wallet, approve a change, raise a limit, or invent
a transaction, an event or an audit record.  Each MAC names its key, so that it can be
rotated.
"""

import hmac
import json
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Self, TypeVar

from signer.errors import ConfigurationError, Refusal, RowNotAuthenticError
from signer.model.audit_record import Record
from signer.model.sealed_fields import KINDS, SealedRow, changed
from signer.private_files import is_private


Row = TypeVar("Row", bound=SealedRow)

_LINE = re.compile(r"([A-Za-z0-9_-]{1,32}) ([0-9a-f]{64}|arn:[!-~]{1,252})")

_GENERATED_ID = re.compile(r"([0-9]{1,9})-[0-9a-f]{16}")


def _format(value: datetime | bytes) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat(timespec="microseconds")


# Times, memos and calldata are the only values that are no type of JSON.  None contains
# another one.
_JSON = json.JSONEncoder(separators=(",", ":"), default=_format, check_circular=False)


_REMEMBERED = 1024
"""
How many MACs are kept, each with the values that it covers.

The steps of a payment verify the same rows several times each.
"""

_LONGEST_REMEMBERED = 4096
"""The longest message of which a MAC is kept: none may fill the memory."""


class _LongError(Exception):
    """A MAC that is not kept: ``lru_cache`` keeps no error."""

    def __init__(self, mac: str) -> None:
        super().__init__()
        self.mac = mac


class RowMACs:
    """Makes and verifies the MACs of rows; safe for threads."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """Make MACs with the first of *keys*, by id, and verify them with all."""
        self._keys = dict(keys)
        self._current = next(iter(self._keys))
        # A copy of a state costs half as much as to begin with the key.
        self._states = {
            key_id: hmac.new(key, digestmod="sha256")
            for key_id, key in self._keys.items()
        }
        # With types, since 1, True and 1.0 are equal and have different MACs.
        self._remembered = lru_cache(_REMEMBERED, typed=True)(self._make)

    def __repr__(self) -> str:
        return "RowMACs()"

    @classmethod
    def load(cls, path: Path, derive: Callable[[str], bytes] | None = None) -> Self:
        """
        Read keys from a file that is its owner's alone.

        Each line has an id, a space, and 32 bytes in hex, or the ARN of a key in KMS,
        of which *derive* returns 32 bytes.  The first key makes new MACs; the others
        only verify.  An id of ``generate`` must be that of its key.

        Raises:
            ConfigurationError: ``mac-key-invalid``.
        """
        problem = "each line must have an id, a space, and 64 hex digits or an ARN"
        try:
            with path.open("rb") as file:
                if not is_private(file.fileno()):
                    raise _invalid("other users can access the file: chmod 600")
                text = file.read().decode("ascii")
        except FileNotFoundError:
            create = "`hotwallet db mac-key --out FILE` creates one"
            raise _invalid(f"the file does not exist; {create}") from None
        except OSError as e:
            raise _invalid(f"the file cannot be read ({type(e).__name__})") from None
        except UnicodeDecodeError:
            raise _invalid(problem) from None
        found = [_LINE.fullmatch(line) for line in text.splitlines()]
        values = {each[1]: each[2] for each in found if each is not None}
        if not found or len(values) != len(found):
            raise _invalid(f"{problem}, and ids must differ")
        keys = {key_id: _key(value, derive) for key_id, value in values.items()}
        for key_id, key in keys.items():
            # Another host would not accept the MACs of a key that was copied wrongly.
            if (number := key_number(key_id)) and _generate_id(number, key) != key_id:
                raise _invalid("an id is of another key: copy the file again")
        return cls(keys)

    @staticmethod
    def generate(number: int = 1, in_kms: tuple[str, bytes] | None = None) -> bytes:
        """
        Return the line of a new key for ``load``, or of an ARN with its derived key.

        The id begins with *number*, which counts the keys of a file, and ends with a
        fingerprint of the key: so no other key ever has the same id.
        """
        if in_kms is None:
            key = secrets.token_bytes(32)
            return f"{_generate_id(number, key)} {key.hex()}\n".encode()
        arn, key = in_kms
        return f"{_generate_id(number, key)} {arn}\n".encode()

    def sealed(self, row: Row) -> Row:
        return changed(row, mac=self.compute(row))

    def compute(self, row: object) -> str:
        """Return the MAC of *row*: the id of the key, a colon, and 64 hex digits."""
        return self._compute(self._current, row)

    def mac_of(self, record: Record) -> str:
        """Return the MAC of a new *record*, which may have it already."""
        return record.mac or self.compute(record)

    def require(self, row: Row) -> None:
        """Raise ``RowNotAuthenticError`` unless *row* has its MAC."""
        if not self.is_valid(row.mac, row):
            kind = KINDS[type(row)]
            key = " ".join(str(getattr(row, name)) for name in kind.key)
            raise RowNotAuthenticError(
                f"the row of the {kind.name} {key} has no valid MAC: another program"
                " changed it, or MAC_KEY_FILE has other keys"
            )

    def is_valid(self, mac: str | None, row: object) -> bool:
        """Return whether *mac* is the MAC of *row*."""
        key_id = (mac or "").partition(":")[0]
        if mac is None or key_id not in self._keys:
            return False
        expected = self._compute(key_id, row).encode()
        return hmac.compare_digest(mac.encode(errors="replace"), expected)

    def mac_of_text(self, purpose: str, text: str) -> str:
        """
        Return the MAC of *text*, which this service hands out and gets back.

        No row has the same MAC, and neither has the text for another *purpose*.
        """
        return self._compute_of_text(self._current, purpose, text)

    def is_mac_of_text(self, mac: str, purpose: str, text: str) -> bool:
        """Return whether *mac* is the MAC of *text* for *purpose*."""
        key_id = mac.partition(":")[0]
        if key_id not in self._keys:
            return False
        expected = self._compute_of_text(key_id, purpose, text).encode()
        return hmac.compare_digest(mac.encode(errors="replace"), expected)

    def has_key(self, mac: str) -> bool:
        """Return whether there is the key that *mac*, which is not verified, names."""
        return mac.partition(":")[0] in self._keys

    def is_current(self, mac: str | None) -> bool:
        """Return whether the first key made *mac*, which is not verified."""
        return (mac or "").startswith(f"{self._current}:")

    def _compute(self, key_id: str, row: object) -> str:
        # The kind comes first, so that the MAC of one kind of row fits no other.
        kind = KINDS[type(row)]
        values = kind.values(row)
        return self._mac(key_id, f"hotwallet {kind.name} 1", *values)

    def _compute_of_text(self, key_id: str, purpose: str, text: str) -> str:
        # No kind of row begins with this word.
        return self._mac(key_id, f"hotwallet text for {purpose} 1", text)

    def _mac(self, key_id: str, *values: object) -> str:
        try:
            return self._remembered(key_id, *values)
        except _LongError as e:
            return e.mac

    def _make(self, key_id: str, *values: object) -> str:
        message = _JSON.encode(values).encode()
        state = self._states[key_id].copy()
        state.update(message)
        mac = f"{key_id}:{state.hexdigest()}"
        if len(message) > _LONGEST_REMEMBERED:
            raise _LongError(mac)
        return mac


def key_number(key_id: str) -> int:
    """Return the number that ``RowMACs.generate`` gave to a key; 0 for another id."""
    match = _GENERATED_ID.fullmatch(key_id)
    return 0 if match is None else int(match[1])


def _key(value: str, derive: Callable[[str], bytes] | None) -> bytes:
    if not value.startswith("arn:"):
        return bytes.fromhex(value)
    if derive is None:
        raise _invalid("this program does not read keys in KMS")
    return derive(value)


def _generate_id(number: int, key: bytes) -> str:
    # No row has this message: that of a row is a JSON list.
    fingerprint = hmac.digest(key, b"hotwallet MAC key id 1", "sha256")
    return f"{number}-{fingerprint[:8].hex()}"


def _invalid(problem: str) -> ConfigurationError:
    return ConfigurationError(Refusal("mac-key-invalid", f"MAC_KEY_FILE: {problem}"))
