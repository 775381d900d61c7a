"""The vault's calldata and events; ``tests/integration/test_vault.py`` has a vault."""

import json
from dataclasses import replace
from importlib.resources import files

import pytest
from eth_abi.abi import encode
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from signer.chain.erc20 import TRANSFER_EVENT
from signer.chain.vault import (
    CODE_HASH,
    MAX_AMOUNT,
    PAID_EVENT,
    PAY,
    SKIPPED_EVENT,
    End,
    Item,
    Reason,
    batch_gas,
    decode_pay,
    encode_pay,
    has_vault_code,
    item_gas,
    read_ends,
)
from signer.errors import EncodingError
from signer.ports.chain import Log


ARTEFACT = json.loads(files("signer.chain").joinpath("vault.json").read_text("utf-8"))

VAULT = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
TOKEN = "0x5FbDB2315678afecb367f032d93F642f64180aa3"

addresses = st.binary(min_size=20, max_size=20).map(to_checksum_address)
marks = st.binary(min_size=16, max_size=16)
items_of_batches = st.lists(
    st.builds(Item, addresses, st.integers(1, MAX_AMOUNT), marks), max_size=5
)


def _lower(items: list[Item]) -> tuple[Item, ...]:
    return tuple(replace(each, recipient=each.recipient.lower()) for each in items)


def test_the_hash_is_that_of_the_code() -> None:
    """The pin, the artefact and its bytes are the same."""
    code = bytes.fromhex(ARTEFACT["code"].removeprefix("0x"))

    assert ARTEFACT["code_hash"] == "0x" + CODE_HASH.hex()
    assert has_vault_code(code)
    assert not has_vault_code(code + b"\0")
    assert not has_vault_code(b"")


def test_the_gas_of_a_batch_is_that_of_its_items_and_its_own() -> None:
    """A policy reads the share of an item from it again."""
    assert batch_gas([70_000, 90_000]) == 540_000
    assert item_gas(540_000, 2) == 80_000
    assert item_gas(21_000, 1) == 0


@given(token=addresses, items=items_of_batches)
def test_items_survive_the_round_trip(token: str, items: list[Item]) -> None:
    """They are decoded again; the encoding is the ABI's."""
    calldata = encode_pay(token, items)
    packed = b"".join(
        bytes.fromhex(each.recipient[2:]) + each.amount.to_bytes(12, "big") + each.mark
        for each in items
    )

    assert calldata == PAY + encode(["address", "bytes"], [token, packed])
    assert decode_pay(calldata) == (token.lower(), _lower(items))


ITEM = Item("0x" + "11" * 20, 7, bytes(range(16)))


@pytest.mark.parametrize(
    "change",
    [
        {"amount": 0},
        {"amount": -1},
        {"amount": MAX_AMOUNT + 1},
        {"mark": b"short"},
        {"mark": bytes(17)},
        {"recipient": "0x1234"},
        {"recipient": "nowhere"},
        {"recipient": "0x" + "11 " * 20},
        {"recipient": "0x11" + " " * 38},
        {"recipient": "11" * 21},
    ],
)
def test_what_no_item_can_hold_is_refused(change: dict[str, object]) -> None:
    """Instead of an item that pays something else."""
    with pytest.raises(EncodingError, match="an item cannot be paid by a vault"):
        encode_pay(TOKEN, [ITEM, replace(ITEM, **change)])  # type: ignore[arg-type]
    with pytest.raises(EncodingError, match="an item cannot be paid by a vault"):
        encode_pay("0x12", [ITEM])


_GOOD = encode_pay(TOKEN, [ITEM])
_OFFSET = 4 + 32 + 31


@pytest.mark.parametrize(
    "calldata",
    [
        b"",
        PAY,
        PAY[::-1] + _GOOD[4:],
        _GOOD[:-1],
        _GOOD + b"\0",
        b"\1".join((_GOOD[:4], _GOOD[5:])),
        _GOOD[:_OFFSET] + b"\x60" + _GOOD[_OFFSET + 1 :],
        _GOOD[:_OFFSET] + b"\xff" + _GOOD[_OFFSET + 1 :],
        _GOOD[: _OFFSET - 31] + b"\xff" * 32 + _GOOD[_OFFSET + 1 :],
        PAY + encode(["address", "bytes"], [TOKEN, bytes(47)]),
        PAY + encode(["address", "bytes"], [TOKEN, bytes(48)]),
        PAY + encode(["address", "bytes"], [TOKEN, b"\1" * 49]),
    ],
)
def test_other_calldata_is_refused(calldata: bytes) -> None:
    """A vault might read it in another way."""
    with pytest.raises(EncodingError, match="vault"):
        decode_pay(calldata)


@given(st.binary(max_size=250))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    """With one error."""
    with pytest.raises(EncodingError):
        decode_pay(PAY + body)


def _paid(item: Item) -> Log:
    return Log(VAULT, (PAID_EVENT, item.mark + bytes(16)), b"")


def _skipped(item: Item, index: int, reason: int) -> Log:
    data = encode(["uint256", "uint256"], [index, reason])
    return Log(VAULT, (SKIPPED_EVENT, item.mark + bytes(16)), data)


def _transfer(item: Item, amount: int | None = None, sender: str = VAULT) -> Log:
    topics = [encode(["address"], [each]) for each in (sender, item.recipient)]
    data = encode(["uint256"], [item.amount if amount is None else amount])
    return Log(TOKEN, (TRANSFER_EVENT, *topics), data)


def _item(n: int) -> Item:
    return Item(f"0x{n + 1:040x}", n + 1, bytes([n]) * 16)


A, B, C = map(_item, range(3))


def _ends(*logs: Log, items: tuple[Item, ...] = (A, B, C)) -> tuple[End, ...]:
    return read_ends(logs, vault=VAULT.lower(), token=TOKEN, items=items)


PAID = End(None, has_transfer=True)


def test_each_item_has_an_end() -> None:
    """Paid with its Transfer, or skipped with a reason."""
    logs = (_transfer(A), _paid(A), _skipped(B, 1, 4), _transfer(C), _paid(C))

    assert _ends(*logs) == (PAID, End(Reason.REVERTED, has_transfer=False), PAID)
    assert _ends(items=()) == ()


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_read(reason: Reason) -> None:
    """The number is the vault's."""
    assert _ends(_skipped(A, 0, reason), items=(A,)) == (End(reason, False),)
    logs = (_transfer(A), _skipped(A, 0, reason))  # A token may pay, and say no.
    assert _ends(*logs, items=(A,)) == (End(reason, has_transfer=True),)


def test_the_same_item_twice() -> None:
    """Each has its own Transfer; two for one of them prove nothing."""
    twice = (A, A)
    good = (_transfer(A), _paid(A), _transfer(A), _paid(A))
    assert _ends(*good, items=twice) == (PAID, PAID)
    unproven = End(None, has_transfer=False)
    shifted = (_transfer(A), _transfer(A), _paid(A), _paid(A))
    assert _ends(*shifted, items=twice) == (unproven, unproven)


@pytest.mark.parametrize(
    "logs",
    [
        (),
        (_transfer(A, 2),),
        (_transfer(B),),
        (_transfer(A, sender=TOKEN),),
        (_transfer(A), _transfer(A)),
        (replace(_transfer(A), address="0x" + "99" * 20),),
    ],
)
def test_a_token_that_lies_proves_nothing(logs: tuple[Log, ...]) -> None:
    """It took the call, and its events do not show the payment."""
    assert _ends(*logs, _paid(A), items=(A,)) == (End(None, has_transfer=False),)


@pytest.mark.parametrize(
    "logs",
    [
        (),
        (_paid(A), _paid(B)),
        (_paid(A), _paid(B), _paid(C), _paid(C)),
        (_paid(B), _paid(A), _paid(C)),
        (_paid(A), _skipped(B, 2, 4), _paid(C)),
        (_paid(A), _skipped(B, 1, 0), _paid(C)),
        (_paid(A), _skipped(B, 1, 6), _paid(C)),
        (_paid(A), _skipped(C, 1, 4), _paid(C)),
        (_paid(A), replace(_paid(B), data=b"\0"), _paid(C)),
        (_paid(A), replace(_paid(B), topics=(PAID_EVENT,)), _paid(C)),
        (_paid(A), replace(_paid(B), topics=(keccak(b""),)), _paid(C)),
        (_paid(A), replace(_paid(B), address=TOKEN), _paid(C)),
        (_paid(A), replace(_paid(B), topics=()), _paid(C)),
    ],
)
def test_other_events_are_refused(logs: tuple[Log, ...]) -> None:
    """One for each item, in the order of the items, with its mark."""
    with pytest.raises(EncodingError, match="the vault"):
        _ends(*logs)
