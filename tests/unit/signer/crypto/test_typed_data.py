"""Typed data (EIP-712): what is accepted hashes as elsewhere; the rest is refused."""

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak

from signer.crypto.messages import message_digest
from signer.crypto.typed_data import (
    MAX_DEPTH,
    MAX_MEMBERS,
    MAX_SIZE,
    MAX_TYPES,
    MAX_VALUES,
    USER_OPERATION,
    Member,
    TypedData,
    encode_type,
)
from signer.errors import InvalidInputError
from tests.support.typed_documents import changed_document, valid_document
from tests.support.vectors import load


MAIL = load("eips")["eip712"]
DOCUMENT: dict[str, Any] = MAIL["document"]
COW = "0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"
BAD = COW.replace("CD2a", "cD2a")

_GENERATED = 100


def _refusal(document: object) -> InvalidInputError:
    """Return the error of *document*, and require the same of its JSON text."""
    with pytest.raises(InvalidInputError) as caught:
        TypedData.parse(document)
    with pytest.raises(InvalidInputError) as of_text:
        TypedData.parse(json.dumps(document))
    assert str(of_text.value) == str(caught.value)
    assert of_text.value.field == caught.value.field
    return caught.value


def _changed(change: Callable[[Any], object]) -> dict[str, Any]:
    document = copy.deepcopy(DOCUMENT)
    change(document)
    return document


def _of(type_: str, value: object) -> dict[str, Any]:
    """Return a document whose message has one member."""
    return {
        "types": {"Box": [{"name": "it", "type": type_}]},
        "primaryType": "Box",
        "domain": {},
        "message": {"it": value},
    }


def _read(type_: str, value: object) -> Any:
    return TypedData.parse(_of(type_, value)).message["it"]


def test_example_of_eip_712() -> None:
    """The mail of EIP-712 has its digest, as an object and as JSON text."""
    document = TypedData.parse(DOCUMENT)

    assert "0x" + document.digest().hex() == MAIL["digest"]
    assert TypedData.parse(json.dumps(DOCUMENT)) == document
    assert document.primary_type == "Mail"
    assert document.encode_type() == (
        "Mail(Person from,Person to,string contents)Person(string name,address wallet)"
    )
    assert document.chain_id == 1
    assert document.verifying_contract == "0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC"
    person = (Member("name", "string"), Member("wallet", "address"))
    assert document.types["Person"] == person
    # encodeType lists the struct, then those that it contains, by name.
    types = {
        "Transaction": (Member("from", "Person"), Member("tx", "Asset[2][]")),
        "Person": person,
        "Asset": (Member("token", "address"),),
    }
    assert encode_type(types, "Transaction") == (
        "Transaction(Person from,Asset[2][] tx)"
        "Asset(address token)Person(string name,address wallet)"
    )


def test_documents_hash_as_in_eth_account() -> None:
    """Generated documents have eth-account's digest; ints are exact in JSON."""
    random = Random(712)
    for _ in range(_GENERATED):
        document = valid_document(random)

        ours = TypedData.parse(json.dumps(document))

        assert TypedData.parse(document) == ours
        theirs = message_digest(encode_typed_data(full_message=document))
        assert ours.digest() == theirs, document


def test_changed_documents_are_refused_or_hash_as_in_eth_account() -> None:
    """T3: after any change there is an InvalidInputError, or eth-account's digest."""
    random = Random(191)
    refused = 0
    for _ in range(2 * _GENERATED):
        document = changed_document(random)
        try:
            ours = TypedData.parse(document)
        except InvalidInputError:
            refused += 1
            assert _refusal(document).field is not None
            continue

        theirs = message_digest(encode_typed_data(full_message=document))
        assert ours.digest() == theirs, document
    assert refused > _GENERATED


def _field(struct: str, index: int, **changes: object) -> Callable[[Any], object]:
    return lambda document: document["types"][struct][index].update(changes)


def _balance_document(type_: str, first: object, second: object) -> dict[str, Any]:
    def change(document: Any) -> None:
        document["types"]["Person"][1] = {"name": "balance", "type": type_}
        for person, value in (("from", first), ("to", second)):
            del document["message"][person]["wallet"]
            document["message"][person]["balance"] = value

    return _changed(change)


def _set(path: str, value: object) -> Callable[[Any], object]:
    """Return a change that sets the part at *path*."""
    *parents, name = path.split("/")

    def change(document: Any) -> None:
        for each in parents:
            document = document[each]
        document[name] = value

    return change


def _nested_people(document: Any) -> None:
    document["types"]["Mail"][1]["type"] = "Person[2][][4]"
    document["message"]["to"] = [document["message"]["to"]]


def _nicknames(document: Any) -> None:
    document["types"]["Person"].append({"name": "nicknames", "type": "string[][]"})
    document["message"]["from"]["nicknames"] = ["bovine", "Bessie", "Daisy"]
    document["message"]["to"]["nicknames"] = [[]]


def _attachments(document: Any) -> None:
    document["types"]["Mail"].append({"name": "attachments", "type": "Attachment[]"})
    document["message"]["attachments"] = []


# The cases of invalid.json and one_arg_invalid.json in eth-account's tests.
ETH_ACCOUNT_INVALID = {
    "data_field_name_does_not_match_type_field_name": _changed(
        _field("Person", 1, name="hello wallet")
    ),
    "char_string_invalid_for_int_type": _balance_document(
        "uint256", 1234, "how do you do?"
    ),
    "single_array_value_for_nested_array_type": _changed(_nested_people),
    "bad_uint_field_type_in_types_passed_an_int": _balance_document(
        "uint25689", 123, 1234
    ),
    "undefined_field_type_in_types": _changed(_field("Mail", 0, type="Hello Person")),
    "bad_uint_field_type_in_types_passed_a_string": _balance_document(
        "uint25689", "123", "0x1234"
    ),
    "custom_typed_used_but_not_defined": _changed(_attachments),
    "string_array_value_for_nested_string_array_type": _changed(_nicknames),
    "domain_value_not_in_domain_types": _changed(_set("domain/salt", "0x" + "12" * 32)),
    "domain_type_not_in_domain_values": _changed(
        lambda document: document["types"]["EIP712Domain"].append(
            {"name": "salt", "type": "bytes32"}
        )
    ),
    "non_primary_type_for_primary_type": _changed(_set("primaryType", "Person")),
    "undefined_type_for_primary_type": _changed(_set("primaryType", "Horse")),
}


@pytest.mark.parametrize("name", ETH_ACCOUNT_INVALID)
def test_invalid_documents_of_eth_account(name: str) -> None:
    """T3: eth-account's invalid documents are refused, with the field that is wrong."""
    assert _refusal(ETH_ACCOUNT_INVALID[name]).field is not None


PERSON = [{"name": "name", "type": "string"}, {"name": "wallet", "type": "address"}]


WALLET = "message/from/wallet"
# What is set or changed, the field of the error, and what its message has.
INVALID: list[tuple[Callable[[Any], object], str, str]] = [
    (_set("message/from", None), "message.from", "type Person"),
    (_set("message/from", []), "message.from", "type Person"),
    (_set("message/contents", 5), "message.contents", "a str"),
    (_set("message/contents", None), "message.contents", "a string"),
    (_set("message/contents", "\ud800"), "message.contents", "surrogate"),
    (_set(WALLET, BAD), "message.from.wallet", "EIP-55"),
    (_set(WALLET, COW[2:]), "message.from.wallet", "0x"),
    (_set(WALLET, None), "message.from.wallet", "0x"),
    (_set("message/from/x", 1), "message.from", "type Person"),
    (lambda d: d["message"].pop("to"), "message.to", "missing"),
    (_set("message", None), "message", "object of type Mail"),
    (_set("domain/chainId", "mainnet"), "domain.chainId", "an integer"),
    (_set("domain/chainId", None), "domain.chainId", "an integer"),
    (_set("domain/chainId", -1), "domain.chainId", "range"),
    (_set("domain/chainId", 1.0), "domain.chainId", "an integer"),
    (_set("domain/name", 5), "domain.name", "a string"),
    (_set("domain/verifyingContract", "0x"), "domain.verifyingContract", "40 hex"),
    (_set("domain/owner", COW), "domain", "does not have"),
    (_set("domain", []), "domain", "an object"),
    (lambda d: d["domain"].pop("chainId"), "types.EIP712Domain", "domain's members"),
    (lambda d: d["types"]["EIP712Domain"].reverse(), "types.EIP712Domain", "order"),
    (
        _field("EIP712Domain", 2, type="uint"),
        "types.EIP712Domain.chainId",
        "neither defined",
    ),
    (
        _field("EIP712Domain", 2, type="uint64"),
        "types.EIP712Domain",
        "with their types",
    ),
    (_set("types", []), "types", "an object"),
    (_set("types", {}), "types", "one struct type"),
    (_set("types/Extra", PERSON), "types", "unused"),
    (_set("types/Extra", {}), "types.Extra", "a list"),
    (_set("types/Extra", [[]]), "types.Extra", "a name and"),
    (_field("Mail", 0, indexed=True), "types.Mail", "a name and"),
    (_field("Mail", 0, type="Person[0]"), "types.Mail.from", "malformed"),
    (_field("Mail", 0, type="Person[01]"), "types.Mail.from", "malformed"),
    (_field("Mail", 0, type="Person[2"), "types.Mail.from", "malformed"),
    (_field("Mail", 0, type=None), "types.Mail.from", "malformed"),
    (_field("Mail", 0, type="person"), "types.Mail.from", "neither"),
    (_field("Mail", 0, type="EIP712Domain"), "types.Mail.from", "neither defined"),
    (_field("Mail", 0, type="Mail"), "types", "contain itself"),
    (_field("Person", 1, type="Mail[]"), "types", "contain itself"),
    (_field("Mail", 0, name="to"), "types.Mail", "twice"),
    (_field("Mail", 0, name="from,Person to"), "types.Mail", "identifier"),
    (_field("Mail", 0, name=None), "types.Mail", "identifier"),
    (_field("Mail", 0, name="__proto__"), "types.Mail", "__proto__"),
    (_set("types/a,b", []), "types", "identifier"),
    (_set("types/uint7", []), "types.uint7", "Solidity"),
    (_set("types/bytes33", []), "types.bytes33", "Solidity"),
    (_set("types/string", []), "types.string", "Solidity"),
    (_set("types/fixed8x1", []), "types.fixed8x1", "Solidity"),
    (_set("types/__proto__", []), "types.__proto__", "Solidity"),
    (_set("primaryType", "EIP712Domain"), "primaryType", "Mail"),
    (_set("primaryType", ["Mail"]), "primaryType", "Mail"),
    (lambda d: d.pop("primaryType"), "document", "primaryType"),
    (_set("extra", 1), "document", "and no more"),
]


@pytest.mark.parametrize(
    ("change", "field", "problem"), INVALID, ids=range(len(INVALID))
)
def test_invalid_parts_are_named(
    change: Callable[[Any], object], field: str, problem: str
) -> None:
    """Each error names the part that is wrong, and what it must be."""
    error = _refusal(_changed(change))

    assert error.field == field
    assert problem in str(error)


@pytest.mark.parametrize(
    "document",
    [
        *(None, 5, [], [DOCUMENT], b"{}", True),
        *("", "{", "[" * 100_000, '{"a":1}x', "{'a':1}", "\ufeff{}", "nul"),
    ],
)
def test_document_is_an_object_or_its_json(document: object) -> None:
    with pytest.raises(InvalidInputError) as caught:
        TypedData.parse(document)

    assert caught.value.field == "document"


def test_names_must_not_repeat_in_json() -> None:
    """The last of two members wins in one parser, and the first in another."""
    twice = json.dumps(DOCUMENT).replace('"Mail": [', '"Mail": [], "Mail": [', 1)

    with pytest.raises(InvalidInputError, match="twice"):
        TypedData.parse(twice)


UINT256 = 2**256 - 1


@pytest.mark.parametrize(
    ("type_", "value", "normal"),
    [
        ("bool", True, True),
        ("uint8", 255, 255),
        ("uint256", UINT256, UINT256),
        ("uint256", str(UINT256), UINT256),
        ("uint256", hex(UINT256), UINT256),
        ("uint256", "0x00Ff", 255),
        ("uint256", "0", 0),
        ("int8", -128, -128),
        ("int8", "-128", -128),
        ("int256", str(-(2**255)), -(2**255)),
        ("address", COW.lower(), COW),
        ("address", COW, COW),
        ("bytes", "0x", b""),
        ("bytes", b"\x01\x02", b"\x01\x02"),
        ("bytes2", "0xabCD", b"\xab\xcd"),
        ("bytes32", bytes(32), bytes(32)),
        ("string", "0x", "0x"),
        ("string", "a\n\0\U0001d4b3", "a\n\0\U0001d4b3"),
        ("uint8[2][]", [[1, "2"]], [[1, 2]]),
        ("bool[]", [], []),
    ],
    ids=repr,
)
def test_values_are_normalised(type_: str, value: object, normal: object) -> None:
    """Each spelling of a value becomes the same Python value, and hashes the same."""
    read = _read(type_, value)

    assert read == normal
    assert type(read) is type(normal)
    document = TypedData.parse(_of(type_, value))
    assert document.digest() == TypedData.parse(_of(type_, normal)).digest()


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        ("bool", ["false", "true", 0, 1, "", None]),
        ("uint8", [256, -1, "256", "-1", "0x100", True, 1.0, -0.0, None, "", "0x", []]),
        (
            "uint256",
            [2**256, "1e3", " 1", "1_0", "007", "-0", "0b1", "+1", "0X1", "\u0661"],
        ),
        ("uint256", ["9" * 79, "0x1" + "0" * 64, "1" * 5000]),
        ("int8", [128, -129, "-0x1", "--1"]),
        ("bytes32", ["0x" + "00" * 31, "0x" + "00" * 33, "00" * 32, 0, bytes(31)]),
        ("bytes", ["0xabc", "0xzz", "ab", 5, None, [1, 2], "0X00"]),
        ("address", [COW.swapcase(), COW[:-1], 5, bytes(20), "vitalik.eth", ""]),
        ("string", [5, True, None, ["a"], b"a", "\udfff"]),
        ("uint8[2]", [[1], [1, 2, 3], "12", {"0": 1, "1": 2}, None]),
        ("uint8[]", [None, "", {}, 5, [None], [[1]]]),
    ],
    ids=repr,
)
def test_values_of_another_type_are_refused(type_: str, values: list[object]) -> None:
    """Nothing is converted: each of these is another value for some library."""
    for value in values:
        with pytest.raises(InvalidInputError) as caught:
            _read(type_, value)

        assert caught.value.field is not None
        assert caught.value.field.startswith("message.it")


def test_types_that_libraries_read_differently_are_refused() -> None:
    """ethers hashes uint as uint256, eth-account as uint, and viem refuses it."""
    for type_ in (
        *("uint", "int", "uint7", "uint264", "uint08"),
        *("bytes0", "bytes33", "byte", "tuple"),
    ):
        assert _refusal(_of(type_, 1)).field == "types.Box.it"


@pytest.mark.parametrize(
    "number", ["-0", "1.0", "1e2", "NaN", "-Infinity", "-0.0", "1" * 81, "9" * 5000]
)
def test_json_numbers_are_exact_integers(number: str) -> None:
    """A float, a negative zero and a number of more than 80 digits are refused."""
    with pytest.raises(InvalidInputError) as caught:
        TypedData.parse(_with_number(number))
    assert caught.value.field == "message.it"
    assert TypedData.parse(_with_number(str(UINT256))).message["it"] == UINT256


def _with_number(number: str) -> str:
    return json.dumps(_of("uint256", 111_222)).replace("111222", number)


def test_size_is_limited() -> None:
    """Large documents are refused, in JSON and decoded."""
    document = _of("string", "a" * (MAX_SIZE + 1))

    with pytest.raises(InvalidInputError) as caught:
        TypedData.parse(json.dumps(document))
    assert caught.value.field == "document"
    for value in ("a" * (MAX_SIZE + 1), bytes(MAX_SIZE + 1)):
        type_ = "bytes" if isinstance(value, bytes) else "string"
        with pytest.raises(InvalidInputError, match="too large"):
            _read(type_, value)


def test_number_of_values_is_limited() -> None:
    """The message, its array and the items count."""
    assert len(_read("bool[]", [True] * (MAX_VALUES - 2))) == MAX_VALUES - 2
    with pytest.raises(InvalidInputError, match="values"):
        _read("bool[]", [True] * (MAX_VALUES - 1))


def test_depth_is_limited() -> None:
    """Arrays and structs may have 16 levels, the document included."""
    value: object = []
    for _ in range(MAX_DEPTH - 3):
        value = [value]
    type_ = "bool" + "[]" * (MAX_DEPTH - 2)

    TypedData.parse(_of(type_, value))
    deeper = _of(type_ + "[]", [value])
    for form in (deeper, json.dumps(deeper)):
        with pytest.raises(InvalidInputError, match="deeper"):
            TypedData.parse(form)


def test_number_of_types_is_limited() -> None:
    """A chain of too many struct types is refused, and so are too many members."""
    types = {f"T{n}": [{"name": "a", "type": f"T{n + 1}[]"}] for n in range(MAX_TYPES)}
    types[f"T{MAX_TYPES}"] = []
    document = {**_of("bool", True), "types": types, "primaryType": "T0"}
    members = [{"name": f"m{n}", "type": "bool"} for n in range(MAX_MEMBERS + 1)]

    assert "struct types" in str(_refusal(document))
    assert "members" in str(_refusal({**document, "types": {"T0": members}}))


def test_long_and_unusual_names_are_not_shown() -> None:
    """The field of an error has no foreign text, only short plain names."""
    name = "n" * 60
    document = {
        "types": {"Box": [{"name": name, "type": "bool"}]},
        "primaryType": "Box",
        "domain": {},
        "message": {name: 5},
    }

    assert _refusal(document).field == "message"
    assert _refusal(_of("bool", {"\u202e": 1})).field == "message.it"


def test_three_parts() -> None:
    """Without a primary type, it is the one that no other type contains."""
    types = {name: DOCUMENT["types"][name] for name in ("Person", "Mail")}

    document = TypedData.of(DOCUMENT["domain"], types, DOCUMENT["message"])

    assert document == TypedData.parse(DOCUMENT)
    with pytest.raises(InvalidInputError):
        TypedData.of(None, types, DOCUMENT["message"])


def test_digest_of_an_empty_domain() -> None:
    """A domain may have no members: its separator is that of EIP712Domain()."""
    document = TypedData.parse(_of("bool", True))
    large = TypedData.parse({**_of("bool", True), "domain": {"chainId": hex(UINT256)}})

    assert (document.chain_id, document.verifying_contract) == (None, None)
    assert large.chain_id == UINT256

    separator = keccak(keccak(text="EIP712Domain()"))
    message = keccak(keccak(text="Box(bool it)") + (1).to_bytes(32, "big"))
    assert document.digest() == keccak(b"\x19\x01" + separator + message)


def test_a_user_operation_may_have_a_signature() -> None:
    """ERC-4337: viem leaves it in the message, and nothing hashes it."""
    name, _, members = USER_OPERATION.rstrip(")").partition("(")
    pairs = [each.split(" ") for each in members.split(",")]
    types = {name: [{"name": member, "type": type_} for type_, member in pairs]}
    values = {"address": COW, "uint256": 1, "bytes": "0x12", "bytes32": "0x" + "0" * 64}
    message = {member: values[type_] for type_, member in pairs}
    document = {"types": types, "primaryType": name, "domain": {}, "message": message}

    plain = TypedData.parse(document)
    for signature in ("0x", "0x1234", b"1234"):
        signed = {**document, "message": {**message, "signature": signature}}
        assert TypedData.parse(signed) == plain

    for wrong in ({"signature": 1}, {"signature": "0x1"}, {"more": "0x"}):
        assert _refusal({**document, "message": {**message, **wrong}})
    assert _refusal({**document, "message": None}).field == "message"
    shorter = {name: types[name][:-1]}
    less = {each["name"]: message[each["name"]] for each in shorter[name]}
    other = {**document, "types": shorter, "message": {**less, "signature": "0x"}}
    assert _refusal(other).field == "message"
