"""
What a token must show before production signs with one of its keys.

A device can lie about all of it: this finds a token or a key that was chosen or made
wrongly, not a false device.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pkcs11 import Attribute
from pkcs11.types import Object

from backends.pkcs11.cryptoki import Library
from backends.pkcs11.functions import Session, Token
from signer.errors import Refusal


_SOFTWARE = (
    *("softhsm", "soft hsm", "soft token", "softtoken"),
    *("kryoptic", "mozilla", "simulator", "emulator"),
)
"""What tokens call themselves whose keys are files; in lower case."""

_ORIGIN = {
    Attribute.LOCAL: (
        "pkcs11-key-imported",
        "the token did not generate the key, so copies of it may exist",
    ),
    Attribute.NEVER_EXTRACTABLE: (
        "pkcs11-key-exposed",
        "the key could be taken out of the token once",
    ),
    Attribute.ALWAYS_SENSITIVE: (
        "pkcs11-key-exposed",
        "the key could be read in clear text once",
    ),
}
"""The attributes that must be true, and what it means if one is not (PKCS#11 v2.40)."""


_SHOWN = (
    *_ORIGIN,
    *(Attribute.SENSITIVE, Attribute.EXTRACTABLE),
    *(Attribute.SIGN, Attribute.DERIVE, Attribute.UNWRAP, Attribute.MODIFIABLE),
)


def names(library: Library, token: Token) -> dict[str, str]:
    """Return what module, slot and token say about themselves."""
    module = library.module
    return {
        "module": f"{module.manufacturer} {module.description}",
        "module_version": "{}.{}".format(*module.version),
        "slot": token.slot_name,
        "token": f"{token.manufacturer} {token.model}",
    }


@dataclass(frozen=True, slots=True)
class Examined:
    """What a device says of itself and a key, and why production refuses the key."""

    names: Mapping[str, str]
    attributes: Mapping[str, bool | None]
    weaknesses: Sequence[Refusal]


def examine(
    library: Library, token: Token, session: Session, private_key: Object
) -> Examined:
    """Return what the token shows; an attribute that it does not show is None."""
    shown = session.read(private_key, _SHOWN)
    attributes = {
        f"CKA_{each.name}": shown[each] == b"\x01" if each in shown else None
        for each in _SHOWN
    }
    called = names(library, token)
    found = [*_find_weaknesses([library.path, *called.values()], attributes)]
    del called["slot"]  # It may have a serial number or an address.
    return Examined(called, attributes, found)


def _find_weaknesses(
    called: Iterable[str], attributes: Mapping[str, bool | None]
) -> Iterator[Refusal]:
    """Yield why production must not sign with a key that may be used."""
    if any(word in name.lower() for name in called for word in _SOFTWARE):
        yield Refusal(
            "softhsm-module-forbidden",
            "the token is SoftHSM's or other software, whose keys are files; set"
            " PKCS11_MODULE and PKCS11_TOKEN_LABEL to those of an HSM",
        )
    for attribute, (code, meaning) in _ORIGIN.items():
        name = f"CKA_{attribute.name}"
        if attributes[name] is not True:
            yield Refusal(
                code,
                f"{name} is not true: {meaning}; generate another key in the token",
            )
