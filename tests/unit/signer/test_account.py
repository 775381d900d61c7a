"""An HSM account signs the same bytes as eth-account, and refuses more."""

from typing import Any, cast

import bitcurve
import pytest
from eth_account import Account
from eth_account.messages import (
    SignableMessage,
    encode_defunct,
    encode_intended_validator,
    encode_typed_data,
)
from eth_account.types import TransactionDictType
from eth_typing import Hash32
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from hexbytes import HexBytes
from hypothesis import given
from hypothesis import strategies as st

from signer.account import HSMAccount
from signer.crypto.messages import message_digest
from signer.errors import (
    BackendUnavailableError,
    InvalidInputError,
    PolicyViolationError,
)
from signer.policy.default_rules import account_policy
from tests.support.devices import honest, planted, point, recording, signer_over
from tests.support.vectors import load


SECRET = bytes.fromhex("46" * 32)
KEY = bitcurve.PrivateKey(SECRET)
LOCAL = Account.from_key(SECRET)
HSM = HSMAccount(signer_over(honest(KEY)))
EVERYTHING = '@id("everything") permit (principal, action, resource);'
PERMISSIVE = HSMAccount(signer_over(honest(KEY)), policy=account_policy(EVERYTHING))
OTHER = "0x5FbDB2315678afecb367f032d93F642f64180aa3"

COMMON = {"nonce": 1, "gas": 21_000, "to": OTHER, "value": 5, "data": b"", "chainId": 1}
LEGACY = {**COMMON, "gasPrice": 7}
TYPE_1 = {**LEGACY, "type": 1, "accessList": []}
TYPE_2 = {**COMMON, "type": 2, "maxFeePerGas": 9, "maxPriorityFeePerGas": 2}
ACCESS_LIST = [{"address": OTHER, "storageKeys": ["0x" + "01" * 32]}]


def _account(key: bitcurve.PrivateKey) -> HSMAccount:
    return HSMAccount(signer_over(honest(key)))


def _sign(transaction: dict[str, Any], account: HSMAccount = HSM) -> Any:
    return account.sign_transaction(cast("TransactionDictType", transaction))


_numbers = st.integers(0, 2**63) | st.integers(0, 2**63).map(hex)
_data = st.binary(max_size=80)
_addresses = st.binary(min_size=20, max_size=20)
_common = {
    "nonce": _numbers,
    "gas": _numbers,
    "value": _numbers,
    "data": _data | _data.map(lambda data: "0x" + data.hex()),
    "to": st.just("") | _addresses | _addresses.map(to_checksum_address),
    "chainId": st.integers(1, 2**63 - 37) | st.integers(1, 2**63 - 37).map(hex),
}
_lists = st.lists(
    st.fixed_dictionaries(
        {
            "address": _addresses.map(to_checksum_address),
            "storageKeys": st.lists(
                st.binary(min_size=32, max_size=32).map(lambda key: "0x" + key.hex()),
                max_size=2,
            ),
        }
    ),
    max_size=2,
)
_legacy = st.fixed_dictionaries({**_common, "gasPrice": _numbers})
_type_1 = st.fixed_dictionaries(
    {**_common, "gasPrice": _numbers, "accessList": _lists},
    optional={"type": st.just(1)},
)
_type_2 = st.fixed_dictionaries(
    {
        **_common,
        "maxFeePerGas": st.integers(2**64, 2**100),
        "maxPriorityFeePerGas": _numbers,
    },
    optional={"accessList": _lists, "type": st.sampled_from([2, "0x2"])},
)


@given(transaction=_legacy | _type_1 | _type_2)
def test_transactions_equal_eth_accounts(transaction: dict[str, Any]) -> None:
    """S11: raw bytes, hash, r, s and v are those of a local account."""
    assert _sign(transaction, PERMISSIVE) == LOCAL.sign_transaction(transaction)


def _require_example(account: HSMAccount, signed: Any, example: Any) -> None:
    assert account.address == example["address"]
    assert signed.message_hash == HexBytes(example["digest"])
    assert (hex(signed.r), hex(signed.s), signed.v) == (
        example["r"],
        example["s"],
        example["v"],
    )


def test_eip_712_and_eip_191_examples() -> None:
    """The mail of EIP-712 and a message of web3.js have the printed signatures."""
    mail, message = load("eips")["eip712"], load("eips")["eip191"]
    contract = mail["document"]["domain"]["verifyingContract"]
    permit = (
        '@id("mail") permit (principal, action == Action::"sign-typed-data", resource)'
        " when { context has verifying_contract"
        f' && context.verifying_contract == "{contract}" }};'
    )
    sender = HSMAccount(
        signer_over(honest(bitcurve.PrivateKey(keccak(text=mail["key_of"])))),
        policy=account_policy(permit),
    )
    signer = _account(bitcurve.PrivateKey.from_hex(message["key"][2:]))

    signed = sender.sign_typed_data(full_message=mail["document"])
    _require_example(sender, signed, mail)
    signed = signer.sign_message(encode_defunct(text=message["text"]))
    _require_example(signer, signed, {"address": signer.address, **message})


_messages = (
    st.binary(max_size=100).map(encode_defunct)
    | st.text(max_size=50).map(lambda text: encode_defunct(text=text))
    | st.binary(max_size=50).map(lambda body: encode_intended_validator(OTHER, body))
    | st.integers(0, 2**256 - 1).map(
        lambda amount: encode_typed_data(
            {"name": "x", "chainId": 1},
            {"Pay": [{"name": "amount", "type": "uint256"}]},
            {"amount": amount},
        )
    )
)


@given(message=_messages)
def test_messages_equal_eth_accounts(message: SignableMessage) -> None:
    """S11: hash, r, s, v (27 or 28) and the 65 bytes are those of a local account."""
    ours, theirs = PERMISSIVE.sign_message(message), LOCAL.sign_message(message)

    assert ours == theirs
    assert ours.v in (27, 28)
    assert len(ours.signature) == 65
    digest = theirs.message_hash
    assert message_digest(message) == digest
    # It is not hashed again.
    assert PERMISSIVE.unsafe_sign_hash(digest) == LOCAL.unsafe_sign_hash(digest)
    with pytest.raises(InvalidInputError, match="32 bytes"):
        HSM.unsafe_sign_hash(cast("Hash32", digest[:31]))


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"types": {}},
        {"types": {"A": [{"name": "a", "type": "A"}]}, "primaryType": "A"},
        {"types": 5, "primaryType": [], "domain": None, "message": ""},
        [],
        "{}",
        "not JSON",
    ],
)
def test_malformed_typed_data_is_refused(document: dict[str, Any]) -> None:
    """An invalid EIP-712 document is the caller's mistake."""
    with pytest.raises(InvalidInputError):
        HSM.sign_typed_data(full_message=document)


def test_typed_data_is_whole_or_in_parts() -> None:
    """A document beside its three parts is refused: they could differ."""
    document = load("eips")["eip712"]["document"]
    domain, message = {"name": "x", "chainId": 1}, {"amount": 7}
    types = {"Pay": [{"name": "amount", "type": "uint256"}]}

    assert HSM.sign_typed_data(domain, types, message) == LOCAL.sign_typed_data(
        domain, types, message
    )
    with pytest.raises(InvalidInputError, match="not both"):
        HSM.sign_typed_data({}, full_message=document)
    with pytest.raises(InvalidInputError):
        HSM.sign_typed_data()


@pytest.mark.parametrize(
    "message",
    [
        SignableMessage(b"", b"", b"\x02" + bytes(40)),
        SignableMessage(b"E", b"thereum Signed Message:\n3", b"four"),
        SignableMessage(b"\x00", bytes(19), b""),
        SignableMessage(b"\x01", bytes(32), bytes(31)),
        SignableMessage(b"E", cast("bytes", "text"), b"text"),
        "hello",
        b"hello",
        None,
    ],
    ids=repr,
)
def test_malformed_messages_are_refused(message: Any) -> None:
    """Only the three versions of EIP-191 are signed, each with its own sizes."""
    with pytest.raises(InvalidInputError) as caught:
        HSM.sign_message(message)

    assert caught.value.field == "message"


@pytest.mark.parametrize("base", [LEGACY, TYPE_1, TYPE_2])
@pytest.mark.parametrize("spell", [str, str.lower])
def test_from_may_be_the_account(base: dict[str, Any], spell: Any) -> None:
    """A `from` that is the account's own address changes nothing."""
    assert _sign({**base, "from": spell(LOCAL.address)}) == _sign(base)
    for sender in (OTHER, None):
        with pytest.raises(InvalidInputError) as caught:
            _sign({**base, "from": sender})
        assert caught.value.field == "from"


@pytest.mark.parametrize("base", [LEGACY, TYPE_1, TYPE_2])
@pytest.mark.parametrize("chain_id", [0, "0x0"])
def test_chain_id_is_required(base: dict[str, Any], chain_id: object) -> None:
    """T5, EIP-155: a chain id of zero, or none, is refused."""
    without = {name: value for name, value in base.items() if name != "chainId"}

    for transaction in (without, {**base, "chainId": chain_id}):
        with pytest.raises(PolicyViolationError) as caught:
            _sign(transaction)

        assert caught.value.rule == "chain-id"


DELEGATION = {"chainId": 0, "address": OTHER, "nonce": 0}
AUTHORISATION = {**DELEGATION, "yParity": 0, "r": 1, "s": 1}
BLOBS = {"maxFeePerBlobGas": 1, "blobVersionedHashes": ["0x01" + "00" * 31]}
TYPE_3 = {**TYPE_2, **BLOBS, "type": 3}
TYPE_4 = {**TYPE_2, "type": 4, "authorizationList": [AUTHORISATION]}


@pytest.mark.parametrize("transaction", [TYPE_3, TYPE_4, {**TYPE_4, "type": "0x4"}])
def test_blobs_and_authorisations_are_refused(transaction: dict[str, Any]) -> None:
    """T6: types 3 and 4 are refused by policy, however they are written."""
    with pytest.raises(PolicyViolationError) as caught:
        _sign(transaction)

    assert caught.value.rule == "transaction-type"


def test_authorisation_without_a_type_is_refused() -> None:
    """T6: eth-account would infer type 4 from the fields."""
    smuggled = {name: value for name, value in TYPE_4.items() if name != "type"}

    with pytest.raises(PolicyViolationError):
        _sign(smuggled)
    with pytest.raises(InvalidInputError):
        _sign({**LEGACY, "authorizationList": [AUTHORISATION]})


@pytest.mark.parametrize(
    "authorization",
    [{}, {**AUTHORISATION, "address": "0x12"}, {**AUTHORISATION, "nonce": "one"}],
    ids=["empty", "address", "nonce"],
)
def test_malformed_authorisations_are_refused(authorization: dict[str, Any]) -> None:
    """Before the policy: there is nothing that it could decide about."""
    with pytest.raises(InvalidInputError, match="chainId, address and nonce"):
        HSM.sign_authorization(authorization)


NONSENSE = [None, -1, 1.5, "zz", "0xzz", "10", b"\x01" * 3, [], [1], {}, {"a": 1}]


@pytest.mark.parametrize("base", [LEGACY, TYPE_1, TYPE_2], ids=["0", "1", "2"])
@pytest.mark.parametrize("value", NONSENSE, ids=repr)
def test_malformed_fields_are_refused(base: dict[str, Any], value: object) -> None:
    """Any field value gives eth-account's bytes, or InvalidInputError."""
    for name in (*base, "accessList", "type", "extra", "v"):
        transaction = {**base, name: value}
        try:
            ours = _sign(transaction)
        except (InvalidInputError, PolicyViolationError):
            continue

        assert ours == LOCAL.sign_transaction(transaction), name


@pytest.mark.parametrize("base", [LEGACY, TYPE_1, TYPE_2])
@pytest.mark.parametrize("data", [bytearray(b"ab"), "0x", "", b"", "0xab"], ids=repr)
def test_spellings_of_data(base: dict[str, Any], data: object) -> None:
    transaction = {**base, "data": data}

    assert _sign(transaction) == LOCAL.sign_transaction(transaction)


@pytest.mark.parametrize("transaction", [LEGACY, TYPE_2])
def test_device_errors_propagate(transaction: dict[str, Any]) -> None:
    """An error of the device is not turned into InvalidInputError."""
    device = planted(point(KEY), BackendUnavailableError("gone"), ValueError("a bug"))
    account = HSMAccount(signer_over(device))

    with pytest.raises(BackendUnavailableError):
        _sign(transaction, account)
    with pytest.raises(ValueError, match="a bug"):
        _sign(transaction, account)


def test_audit_records_the_operation() -> None:
    """Each signature is recorded with its operation and the account's actor."""
    audit, events = recording()
    account = HSMAccount(signer_over(honest(KEY), audit), actor="treasury")

    _sign(LEGACY, account)
    _sign(TYPE_2, account)
    account.sign_message(encode_defunct(text="hi"))

    assert [event["operation"] for event in events if "outcome" in event] == [
        "transaction-signing",
        "transaction-signing",
        "message-signing",
    ]
    assert {event["actor"] for event in events} == {"treasury"}


def test_transaction_is_not_modified() -> None:
    transaction = {**TYPE_2, "from": LOCAL.address, "accessList": ACCESS_LIST}
    before = dict(transaction)

    _sign(transaction)

    assert transaction == before


def test_authorisations_equal_eth_accounts() -> None:
    """EIP-7702, which only a policy of the program permits."""
    authorization = {"chainId": 1, "address": OTHER, "nonce": 7}

    assert PERMISSIVE.sign_authorization(authorization) == LOCAL.sign_authorization(
        authorization
    )
    with pytest.raises(PolicyViolationError, match="rule delegation"):
        HSM.sign_authorization(authorization)
    with pytest.raises(InvalidInputError, match="not an authorisation"):
        HSM.sign_authorization({"chainId": 1})


def test_its_own_authorisation_in_a_transaction() -> None:
    """The list takes what ``sign_authorization`` returns, as in eth-account."""
    given = {"chainId": 1, "address": OTHER, "nonce": 8}
    signed = PERMISSIVE.sign_authorization(given)
    fields = {**TYPE_2, "type": 4}
    whole = {**fields, "authorizationList": [signed]}
    plain = {**fields, "authorizationList": [signed.model_dump(by_alias=True)]}

    assert _sign(whole, PERMISSIVE) == LOCAL.sign_transaction(whole)
    assert _sign(whole, PERMISSIVE) == _sign(plain, PERMISSIVE)
    with pytest.raises(InvalidInputError) as refused:
        _sign({**fields, "authorizationList": signed}, PERMISSIVE)
    assert refused.value.field == "authorizationList"
