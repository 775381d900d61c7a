"""The name of a token: its label, or a ``pkcs11:`` URI (RFC 7512)."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from backends.pkcs11.functions import Token
from signer.errors import InvalidInputError


_SCHEME = "pkcs11:"
_PATH = ("token", "serial", "manufacturer", "model", "slot-id")
_QUERY = ("pin-source",)
# RFC 7512, section 2.3: what may be written without an escape, in any attribute.
_VALUE = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=/?|]|%[0-9A-Fa-f]{2})*")


@dataclass(frozen=True, slots=True)
class TokenName:
    """
    The attributes that a token must have; those that are None may have any value.

    ``pin_source`` is a ``file:`` URI or path, or a program after ``|``.
    """

    attributes: dict[str, str] = field(default_factory=dict)
    pin_source: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Return the name in *text*.

        Raises:
            InvalidInputError: It is no URI of a token.  The message does not quote it.
        """
        if not text.startswith(_SCHEME):
            return cls({"token": text})
        path, _, query = text.removeprefix(_SCHEME).partition("?")
        attributes = _parse(path, ";", _PATH)
        if not attributes:
            raise InvalidInputError(
                f"a {_SCHEME} URI must have one of {', '.join(_PATH)}"
            )
        name = cls(attributes, _parse(query, "&", _QUERY).get("pin-source"))
        source = name.pin_program or name.pin_file
        if source is not None and not source.is_absolute():
            raise InvalidInputError("pin-source must be an absolute path")
        return name

    @property
    def pin_program(self) -> Path | None:
        """The program that prints the PIN, if the name has one."""
        source = self.pin_source or ""
        return Path(source[1:]) if source.startswith("|") else None

    @property
    def pin_file(self) -> Path | None:
        """The file with the PIN, if the name has one."""
        if self.pin_source is None or self.pin_program is not None:
            return None
        # RFC 8089: "file:/path" or "file:///path".
        return Path(self.pin_source.removeprefix("file:").removeprefix("//"))

    def fits(self, token: Token) -> bool:
        has = {
            "token": token.label,
            "serial": token.serial,
            "manufacturer": token.manufacturer,
            "model": token.model,
            "slot-id": str(token.slot),
        }
        return all(has[name] == value for name, value in self.attributes.items())


def _parse(text: str, separator: str, known: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split(separator) if text else ():
        name, equals, value = part.partition("=")
        if name not in known or name in found or not equals:
            raise InvalidInputError(
                f"a {_SCHEME} URI may have each of {', '.join(known)} once before or"
                " after the '?'"
            )
        if not _VALUE.fullmatch(value):
            raise InvalidInputError(f"{name} of the {_SCHEME} URI must be %-encoded")
        try:
            found[name] = unquote(value, errors="strict")
        except UnicodeDecodeError:
            raise InvalidInputError(
                f"{name} of the {_SCHEME} URI must be UTF-8"
            ) from None
    return found
