"""Transactions, documents and messages are described in one plain line."""

from datetime import UTC, datetime

import pytest
from eth_abi.abi import encode

from signer.amounts import MAX_UINT256
from signer.chain.calldata import BY_SELECTOR, BY_SIGNATURE, decode_call
from signer.chain.erc20 import encode_transfer
from signer.clear_signing.calls import (
    AddressBook,
    TokenName,
    describe_transaction,
    quote,
    write_time,
)
from signer.clear_signing.typed_data import describe_message, describe_typed_data
from signer.config.networks import Network
from signer.crypto.messages import PersonalMessage
from signer.crypto.typed_data import TypedData
from tests.unit.signer.clear_signing import documents as d


BOOK = AddressBook(
    tokens={d.USDC: TokenName("USDC", 6), d.DAI: TokenName("DAI", 18)},
    labels={d.SPENDER: "customer"},
    coin="ETH",
)
CUSTOMER = f"{d.SPENDER} (customer)"
CONTRACT = f"{d.USDC} (USDC)"
UNTIL = f"until {datetime.fromtimestamp(d.DEADLINE, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _data(signature: str, *arguments: object) -> bytes:
    function = BY_SIGNATURE[signature]
    return function.selector + encode(function.types, arguments)


def _describe(signature: str, *arguments: object, to: str = d.USDC) -> str:
    return describe_transaction(to, 0, _data(signature, *arguments), BOOK)


@pytest.mark.parametrize(
    ("units", "text"),
    [
        (12_500_000, "12.50 USDC"),
        (12_345_678, "12.345678 USDC"),
        (1, "0.000001 USDC"),
        (0, "0.00 USDC"),
        (MAX_UINT256, "unlimited USDC"),
    ],
)
def test_amounts(units: int, text: str) -> None:
    """A transfer has its amount in whole tokens, with two digits at least."""
    data = encode_transfer(d.SPENDER, units)

    assert describe_transaction(d.USDC, 0, data, BOOK) == (
        f"transfer {text} to {CUSTOMER}"
    )


def test_names_of_a_network() -> None:
    """The tokens of the networks file have their symbols and decimals."""
    token = {"address": d.USDC, "decimals": 0, "max_amount": "10"}
    network = Network.model_validate(
        {"chain_id": 1, "rpc_urls": ["http://127.0.0.1"], "tokens": {"POINT": token}}
    )

    book = AddressBook.of(network)

    assert book.amount(7, d.USDC) == "7 POINT"
    assert book.coins(10**18) == "1.00 coins"
    assert AddressBook.of(network, {d.OWNER: "us"}).address(d.OWNER).endswith("(us)")


R_S = (27, bytes(32), bytes(32))
_3009 = (d.OWNER, d.SPENDER, 5_000_000, 0, d.DEADLINE, bytes(32), *R_S)
_3009_TYPES = "(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)"
_DETAIL = (d.USDC, 7_000_000, d.DEADLINE, 0)
_DETAIL_TYPES = "(address,uint160,uint48,uint48)"

DESCRIPTIONS = {
    ("transferFrom(address,address,uint256)", d.OWNER, d.SPENDER, 5_000_000): (
        f"transfer 5.00 USDC from {d.OWNER} to {CUSTOMER}"
    ),
    ("approve(address,uint256)", d.SPENDER, 5_000_000): (
        f"approve {CUSTOMER} to spend 5.00 USDC"
    ),
    ("increaseAllowance(address,uint256)", d.SPENDER, 5_000_000): (
        f"let {CUSTOMER} spend 5.00 USDC more"
    ),
    ("decreaseAllowance(address,uint256)", d.SPENDER, 5_000_000): (
        f"let {CUSTOMER} spend 5.00 USDC less"
    ),
    ("mint(address,uint256)", d.SPENDER, 5_000_000): f"mint 5.00 USDC for {CUSTOMER}",
    ("burn(uint256)", 5_000_000): "burn 5.00 USDC",
    ("transferAndCall(address,uint256,bytes)", d.SPENDER, 5_000_000, b"abc"): (
        f"transfer 5.00 USDC to {CUSTOMER} and call it with 3 bytes"
    ),
    (
        "permit(address,address,uint256,uint256,uint8,bytes32,bytes32)",
        d.OWNER,
        d.SPENDER,
        5_000_000,
        d.DEADLINE,
        *R_S,
    ): f"permit {CUSTOMER} to spend 5.00 USDC from {d.OWNER} {UNTIL}",
    (
        "permit(address,address,uint256,uint256,bool,uint8,bytes32,bytes32)",
        *(d.OWNER, d.SPENDER, 0, 0, True),
        *R_S,
    ): (
        f"permit {CUSTOMER} to spend everything in {CONTRACT} from {d.OWNER}: yes,"
        " without an end"
    ),
    (
        "permit(address,address,uint256,uint256,bool,uint8,bytes32,bytes32)",
        *(d.OWNER, d.SPENDER, 0, d.DEADLINE, False),
        *R_S,
    ): (
        f"permit {CUSTOMER} to spend everything in {CONTRACT} from {d.OWNER}: no,"
        f" {UNTIL}"
    ),
    (f"transferWithAuthorization{_3009_TYPES}", *_3009): (
        f"transfer 5.00 USDC from {d.OWNER} to {CUSTOMER}"
    ),
    (
        *("approve(address,address,uint160,uint48)", d.DAI, d.SPENDER, 2**160 - 1),
        2**48 - 1,
    ): f"approve {CUSTOMER} to spend unlimited DAI without an end",
    (
        "transferFrom(address,address,uint160,address)",
        d.OWNER,
        d.SPENDER,
        10**18,
        d.DAI,
    ): f"transfer 1.00 DAI from {d.OWNER} to {CUSTOMER}",
    (
        f"permit(address,({_DETAIL_TYPES},address,uint256),bytes)",
        d.OWNER,
        (_DETAIL, d.SPENDER, d.DEADLINE),
        b"",
    ): f"permit {CUSTOMER} to spend 7.00 USDC from {d.OWNER} {UNTIL}",
    (
        f"permit(address,({_DETAIL_TYPES}[],address,uint256),bytes)",
        d.OWNER,
        ((_DETAIL,) * 10, d.SPENDER, d.DEADLINE),
        b"",
    ): (
        f"permit {CUSTOMER} to spend {'7.00 USDC and ' * 8}2 more from {d.OWNER}"
        f" {UNTIL}"
    ),
    (
        f"permit(address,({_DETAIL_TYPES}[],address,uint256),bytes)",
        d.OWNER,
        ((), d.SPENDER, d.DEADLINE),
        b"",
    ): f"permit {CUSTOMER} to spend nothing from {d.OWNER} {UNTIL}",
    ("setApprovalForAll(address,bool)", d.SPENDER, True): (
        f"let {CUSTOMER} move all tokens in {CONTRACT}: yes"
    ),
    ("safeTransferFrom(address,address,uint256)", d.OWNER, d.SPENDER, 9): (
        f"transfer token id 9 of {CONTRACT} from {d.OWNER} to {CUSTOMER}"
    ),
    (
        "safeTransferFrom(address,address,uint256,uint256,bytes)",
        *(d.OWNER, d.SPENDER, 9, 2, b""),
    ): (
        f"transfer 2 of token id 9 of {CONTRACT} from {d.OWNER} to {CUSTOMER} with"
        " 0 bytes"
    ),
    (
        "safeBatchTransferFrom(address,address,uint256[],uint256[],bytes)",
        d.OWNER,
        d.SPENDER,
        (9, 10),
        (1, 2),
        b"",
    ): (
        f"transfer 1 and 2 of token ids 9 and 10 of {CONTRACT} from {d.OWNER} to"
        f" {CUSTOMER} with 0 bytes"
    ),
    ("withdraw(uint256)", 5_000_000): "withdraw 5.00 USDC",
    ("approveDelegation(address,uint256)", d.SPENDER, 5_000_000): (
        f"let {CUSTOMER} borrow 5.00 USDC for this account"
    ),
    ("allow(address,bool)", d.SPENDER, True): (
        f"let {CUSTOMER} manage everything in {CONTRACT}: yes"
    ),
    ("setPreSignature(bytes,bool)", bytes(56), True): (
        f"approve the order 56 bytes of {CONTRACT}: yes"
    ),
}


@pytest.mark.parametrize("number", range(len(DESCRIPTIONS)))
def test_calls(number: int) -> None:
    """Each known function has a sentence with its arguments."""
    (signature, *arguments), text = list(DESCRIPTIONS.items())[number]

    assert _describe(str(signature), *arguments) == text


def test_each_function_has_a_description() -> None:
    """None of the known functions is left without a sentence."""
    for function in BY_SELECTOR.values():
        zeros = bytes(32 * 20)
        if function.static_size is not None:
            data = function.selector + zeros[: function.static_size]
            assert decode_call(data) is not None
            assert describe_transaction(d.USDC, 0, data, BOOK)


def test_unknown_tokens_have_raw_amounts() -> None:
    """The amount may be the id of an NFT, and is not shifted by guessed decimals."""
    text = _describe("approve(address,uint256)", d.SPENDER, 5, to=d.OWNER)

    assert text == f"approve {CUSTOMER} to spend 5 units (or token id) of {d.OWNER}"
    text = _describe("approve(address,uint256)", d.SPENDER, MAX_UINT256, to=d.OWNER)
    assert "unlimited units" in text


def test_coins_and_creation() -> None:
    """Coins are in whole coins; they are named beside a call as well."""
    assert describe_transaction(d.SPENDER, 15 * 10**17, b"", BOOK) == (
        f"send 1.50 ETH to {CUSTOMER}"
    )
    assert describe_transaction(None, 0, bytes(7), BOOK) == (
        "create a contract from 7 bytes"
    )
    assert describe_transaction(None, 10**18, b"", BOOK) == (
        "create a contract from 0 bytes and send 1.00 ETH"
    )
    data = _data("deposit()")
    assert describe_transaction(d.DAI, 10**18, data, BOOK) == (
        f"wrap coins in {d.DAI} (DAI) and send 1.00 ETH"
    )


def test_calldata_that_is_not_understood() -> None:
    """Unknown and malformed calldata is described as such, without a guess."""
    transfer = encode_transfer(d.SPENDER, 5)

    assert describe_transaction(d.USDC, 0, transfer[:-1], BOOK) == (
        f"call transfer(address,uint256) of {CONTRACT} with malformed arguments"
    )
    assert describe_transaction(d.USDC, 0, b"\x12\x34\x56\x78\x00", BOOK) == (
        f"call function 0x12345678 of {CONTRACT} with 1 byte"
    )
    assert describe_transaction(d.USDC, 0, b"\x12", BOOK) == (
        f"call {CONTRACT} with 1 byte"
    )
    assert describe_transaction(d.USDC, 0, transfer + bytes(16), BOOK).endswith(
        f"to {CUSTOMER}, followed by 16 bytes"
    )


def _multicall(*calls: bytes) -> bytes:
    return _data("multicall(bytes[])", list(calls))


def test_multicalls() -> None:
    """The first calls are described, two levels deep."""
    transfer = encode_transfer(d.SPENDER, 1_000_000)
    one = f"transfer 1.00 USDC to {CUSTOMER}"

    def describe(data: bytes) -> str:
        return describe_transaction(d.USDC, 0, data, BOOK)

    assert describe(_multicall()) == f"0 calls of {CONTRACT}"
    assert describe(_multicall(transfer, b"\x12")) == (
        f"2 calls of {CONTRACT}: (1) {one}; (2) call {CONTRACT} with 1 byte"
    )
    many = describe(_multicall(*[transfer] * 10))
    assert many.endswith(f"(8) {one}; 2 more")
    deep = describe(_multicall(_multicall(_multicall(transfer))))
    assert deep == f"1 call of {CONTRACT}: (1) " * 2 + f"1 call of {CONTRACT}"


DOMAIN = f' for "Example" at {CONTRACT} on chain 1'


def test_permits() -> None:
    """A permit names the spender, the amount, the deadline, the kind and the domain."""
    permit = d.document(d.ERC2612, d.permit())

    assert describe_typed_data(permit, BOOK) == (
        f"permit {CUSTOMER} to spend 5.00 USDC {UNTIL} (erc2612-permit){DOMAIN}"
    )
    batch = d.document(d.BATCH, d.allowance([d.details()] * 10), d.PERMIT2)
    assert f"spend {'0.000007 USDC and ' * 8}2 more until" in describe_typed_data(
        batch, BOOK
    )
    nothing = d.document(d.BATCH, d.allowance([]), d.PERMIT2)
    assert "to spend nothing until" in describe_typed_data(nothing, BOOK)


def test_authorizations_and_orders() -> None:
    """ERC-3009 names the recipient, and an order what it offers."""
    authorization = d.document(d.ERC3009, d.authorization(), None)

    assert describe_typed_data(authorization, BOOK) == (
        f"authorise a transfer of 12500000 units to {CUSTOMER} {UNTIL}"
        " (erc3009-transfer)"
        ' for "Example" on chain 1'
    )
    assert describe_typed_data(d.document(d.ORDER, d.order()), BOOK) == (
        f"offer 0.000004 USDC for sale {UNTIL} (seaport-order){DOMAIN}"
    )


@pytest.mark.parametrize(
    ("operation", "how"),
    [(0, ""), (1, " by delegate call"), (2, " by an unknown operation")],
)
def test_safe_transactions(operation: int, how: str) -> None:
    """What the Safe will do is described as a transaction of its own."""
    data = encode_transfer(d.SPENDER, 5_000_000)
    message = d.safe(to=d.USDC, value=0, data=data, operation=operation)

    assert describe_typed_data(d.document(d.SAFE, message), BOOK) == (
        f"approve a Safe transaction{how}: transfer 5.00 USDC to {CUSTOMER}"
        f" (safe-transaction){DOMAIN}"
    )


def test_what_lets_others_move_tokens() -> None:
    """Each kind has a sentence of its own, with who gets what."""
    paid = f", paid to {CUSTOMER}"
    transfer = f"transfer 0.000007 USDC to {CUSTOMER}"
    sent = f"let any address send for this account: {transfer}"
    seven = "0.000007 USDC"
    manage = f"let {CUSTOMER} manage everything in the contract: yes {UNTIL}"
    sentences = {
        d.COW_ORDER: f"offer {seven} for sale{paid} {UNTIL} (cow-order)",
        d.INCH_ORDER: f"offer {seven} for sale{paid} (1inch-order)",
        d.NFT_PERMIT: f"permit {CUSTOMER} to move token id 9 {UNTIL} (nft-permit)",
        d.NFT_PERMIT_FOR_ALL: f"{manage} (nft-permit-for-all)",
        d.COMPOUND_MANAGER: f"{manage} (lending-manager)",
        d.MORPHO_MANAGER: f"{manage} (lending-manager)",
        d.CREDIT_DELEGATION: (
            f"let {CUSTOMER} borrow {seven} for this account {UNTIL}"
            " (aave-credit-delegation)"
        ),
        d.APPROVE_WITH_AUTHORIZATION: (
            f"permit {CUSTOMER} to spend {seven} {UNTIL} (approve-with-authorization)"
        ),
        d.VOTES: f"delegate all votes to {CUSTOMER} {UNTIL} (votes-delegation)",
        d.USER_OPERATION: (
            f"approve a user operation of {CUSTOMER} with 68 bytes of calldata"
            " (user-operation)"
        ),
        d.META_TRANSACTION: f"{sent} (meta-transaction)",
        d.FORWARD_4: f"{sent} (forward-request)",
    }
    for type_string, sentence in sentences.items():
        data = dict.fromkeys(("data", "functionSignature", "callData"), d.TRANSFER_7)
        message = d.signed_for_others(type_string, **data)
        if type_string == d.FORWARD_4:
            message["value"] = 0
        document = d.document(type_string, message)

        assert describe_typed_data(document, BOOK) == f"{sentence}{DOMAIN}"
    order = d.signed_for_others(d.INCH_ORDER, receiver="0x" + "0" * 40)
    assert describe_typed_data(d.document(d.INCH_ORDER, order), BOOK) == (
        f"offer {seven} for sale (1inch-order){DOMAIN}"
    )


def test_foreign_texts_stay_in_their_quotes() -> None:
    """Line breaks, quotes and characters that change the direction are escaped."""
    vote = d.document("Vote(bool yes)", {"yes": True})
    assert describe_typed_data(vote, BOOK) == f'sign "Vote"{DOMAIN}'
    bare = TypedData.of({}, d.types_of("Vote(bool yes)"), {"yes": True})
    assert describe_typed_data(bare, BOOK) == 'sign "Vote"'
    # Contracts allow any uint256: times after the year 9999 have no date.
    assert write_time(253_402_300_799) == "until 9999-12-31 23:59:59 UTC"
    assert write_time(253_402_300_800) == write_time(MAX_UINT256) == "without an end"

    assert quote('a"\n\u202eb') == '"a\\"\\n\\u202eb"'
    assert quote("x" * 100) == f'"{"x" * 80}..."'
    assert describe_message(PersonalMessage.parse("hi\n")) == (
        'sign the message "hi\\n"'
    )
    assert describe_message(PersonalMessage(b"\xff\xfe")) == "sign a message of 2 bytes"
