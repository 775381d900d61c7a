"""Tokens are named by a label or by a ``pkcs11:`` URI (RFC 7512)."""

from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.pkcs11.functions import Token
from backends.pkcs11.token_uri import TokenName
from signer.errors import InvalidInputError


TOKEN = cast(
    "Token",
    SimpleNamespace(
        label="hot wallet",
        serial="c19c7b23",
        manufacturer="SoftHSM project",
        model="SoftHSM v2",
        slot=7,
    ),
)


@pytest.mark.parametrize(
    "text",
    [
        "hot wallet",
        "pkcs11:token=hot%20wallet",
        "pkcs11:serial=c19c7b23",
        "pkcs11:slot-id=7",
        "pkcs11:model=SoftHSM%20v2;manufacturer=SoftHSM%20project;token=hot%20wallet",
        "pkcs11:token=hot%20wallet?pin-source=file:/etc/pin",
    ],
)
def test_what_a_token_is_named_by(text: str) -> None:
    """By its label, or by any of five attributes."""
    assert TokenName.parse(text).fits(TOKEN)


@pytest.mark.parametrize(
    "text",
    [
        "hot",
        "pkcs11:token=hot",
        "pkcs11:token=hot%20wallet;serial=0",
        "pkcs11:slot-id=",
    ],
)
def test_every_attribute_must_fit(text: str) -> None:
    assert not TokenName.parse(text).fits(TOKEN)


@pytest.mark.parametrize(
    ("source", "file", "program"),
    [
        ("file:/etc/pin", "/etc/pin", None),
        ("file:///etc/pin", "/etc/pin", None),
        ("/etc/pin", "/etc/pin", None),
        ("%7C/usr/bin/pin", None, "/usr/bin/pin"),
        ("|/usr/bin/pin", None, "/usr/bin/pin"),
    ],
)
def test_where_the_pin_comes_from(
    source: str, file: str | None, program: str | None
) -> None:
    """A file, or a program after a bar (RFC 7512, section 2.4)."""
    name = TokenName.parse(f"pkcs11:token=t?pin-source={source}")

    assert name.pin_file == (Path(file) if file else None)
    assert name.pin_program == (Path(program) if program else None)


@pytest.mark.parametrize(
    "text",
    [
        "pkcs11:",
        "pkcs11:?pin-source=/etc/pin",
        "pkcs11:token=a;token=b",
        "pkcs11:token",
        "pkcs11:token=a b",
        "pkcs11:token=%zz",
        "pkcs11:token=%ff",
        "pkcs11:id=%01",  # PKCS11_KEY_ID names the key.
        "pkcs11:token=a?pin-value=1234",  # A PIN is not written into a setting.
        "pkcs11:token=a?pin-source=/a&pin-source=/b",
        "pkcs11:token=a;",
        "pkcs11:token=a?pin-source=pin",
        "pkcs11:token=a?pin-source=|getpin",
        "pkcs11:token=a?pin-source=file://host/run/pin",
    ],
)
def test_other_uris_are_refused(text: str) -> None:
    """The message names what may be there, and does not quote the URI."""
    with pytest.raises(InvalidInputError) as caught:
        TokenName.parse(text)

    assert "1234" not in str(caught.value)


@given(st.text(max_size=60))
def test_no_text_crashes_the_parser(text: str) -> None:
    """The result is a name or an ``InvalidInputError``."""
    with suppress(InvalidInputError):
        TokenName.parse(f"pkcs11:{text}")
