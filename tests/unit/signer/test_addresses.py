"""Addresses that are typed are one address, or said to be none."""

import pytest

from signer.addresses import parse_address, redact_address
from signer.errors import InvalidInputError


ADDRESS = "0x2B104909c54b3AC05A81FF0d97f29D0d66b93228"


@pytest.mark.parametrize("text", [ADDRESS, ADDRESS.lower()])
def test_both_spellings_are_one(text: str) -> None:
    """With its checksum, or in lower case, it is the same address."""
    assert parse_address(text, field="address") == ADDRESS


NONE = {
    "empty": "",
    "a wrong checksum": ADDRESS.replace("2B", "2b"),
    "upper case": "0x" + ADDRESS[2:].upper(),
    "without 0x": ADDRESS[2:],
    "short": ADDRESS[:-1],
    "with more": f"{ADDRESS}\n",
    "a key id": "1234abcd-12ab-34cd-56ef-1234567890ab",
}


@pytest.mark.parametrize("text", NONE.values(), ids=NONE)
def test_what_is_none_is_refused(text: str) -> None:
    """The field is named, and nothing of what was typed is repeated."""
    with pytest.raises(InvalidInputError) as raised:
        parse_address(text, field="address")

    assert raised.value.field == "address"
    assert not text or text not in str(raised.value)


def test_what_may_be_shown() -> None:
    """An address in any spelling is, and of anything else eight characters."""
    assert redact_address(ADDRESS.upper().replace("0X", "0x")).endswith("93228")
    assert redact_address("1234abcd-12ab-34cd-56ef-1234567890ab") == "1234abcd..."
