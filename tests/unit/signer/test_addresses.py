"""Addresses that administrators type are parsed strictly."""

import pytest

from signer.addresses import parse_address, redact_address
from signer.errors import InvalidInputError


ADDRESS = "0x2B104909c54b3AC05A81FF0d97f29D0d66b93228"


@pytest.mark.parametrize("text", [ADDRESS, ADDRESS.lower()])
def test_checksum_and_lower_case_are_accepted(text: str) -> None:
    """An address in lower case gets its checksum."""
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
def test_malformed_address_is_refused(text: str) -> None:
    """The refusal names the field and does not show the text."""
    with pytest.raises(InvalidInputError) as raised:
        parse_address(text, field="address")

    assert raised.value.field == "address"
    assert not text or text not in str(raised.value)


def test_redact_address() -> None:
    """An address is shown in any case, and other text only by eight characters."""
    assert redact_address(ADDRESS.upper().replace("0X", "0x")).endswith("93228")
    assert redact_address(ADDRESS.lower()) == ADDRESS
    assert redact_address("1234abcd-12ab-34cd-56ef-1234567890ab") == "1234abcd..."
