"""Typed data and messages have the digests that ethers and viem compute."""

import json
from random import Random
from typing import Any

import pytest
from eth_account.messages import encode_typed_data

from signer.clear_signing.typed_data import recognise
from signer.crypto.messages import PersonalMessage, message_digest
from signer.crypto.typed_data import TypedData
from signer.errors import InvalidInputError
from tests.integration.javascript import ask_javascript
from tests.support.typed_documents import changed_document, valid_document


def _digest(document: object) -> str | None:
    """Return the digest as hex with 0x; None if the document is refused."""
    try:
        return "0x" + TypedData.parse(document).digest().hex()
    except InvalidInputError:
        return None


@pytest.mark.parametrize(
    ("valid", "changed"),
    [(60, 150), pytest.param(2000, 4000, marks=pytest.mark.soak)],
)
def test_generated_documents(valid: int, changed: int) -> None:
    """
    Valid documents have one digest and one type string everywhere.

    What the libraries send to a signer is the same document.  T3: a changed document
    that ethers or viem refuses is refused.
    """
    random = Random(712)
    documents = [valid_document(random) for _ in range(valid)]
    documents += [changed_document(random) for _ in range(changed)]
    answers = ask_javascript(typed=documents)["typed"]
    pairs = [*zip(documents, answers, strict=True)]

    for document, answer in pairs[:valid]:
        ours = TypedData.parse(json.dumps(document))
        digest = "0x" + ours.digest().hex()
        eth_account = message_digest(encode_typed_data(full_message=document))
        assert answer["ethers"].get("digest") == digest, (document, answer)
        assert answer["viem"].get("digest") == digest, (document, answer)
        assert "0x" + eth_account.hex() == digest, document
        assert answer["ethers"]["type"] == ours.encode_type()
        for library in ("ethers", "viem"):
            assert TypedData.parse(answer[library]["payload"]) == ours

    accepted = [pair for pair in pairs[valid:] if _digest(pair[0]) is not None]
    for document, answer in accepted:
        digests = [answer[name].get("digest") for name in ("ethers", "viem")]
        assert digests == [_digest(document)] * 2, (document, answer)
    assert len(accepted) < changed / 2


MAIL: dict[str, Any] = {
    "types": {
        "Mail": [{"name": "to", "type": "address"}, {"name": "n", "type": "int8"}]
    },
    "primaryType": "Mail",
    "domain": {"name": "x", "chainId": 1},
    "message": {"to": "0x" + "11" * 20, "n": 1},
}


def test_libraries_disagree() -> None:
    """
    Why so much is refused: each of these is valid for at least one library.

    The expected pairs are whether ethers and whether viem refuse.
    """
    members = [{"name": "to", "type": "uint"}]
    domain = [
        {"name": "chainId", "type": "uint256"},
        {"name": "name", "type": "string"},
    ]
    cases = [
        ({**MAIL, "types": {"Mail": members}, "message": {"to": 1}}, (False, True)),
        ({**MAIL, "types": {**MAIL["types"], "Unused": []}}, (True, False)),
        ({**MAIL, "types": {**MAIL["types"], "EIP712Domain": domain}}, (False, False)),
        ({**MAIL, "message": {**MAIL["message"], "more": 1}}, (False, False)),
    ]

    answers = ask_javascript(typed=[document for document, _ in cases])["typed"]

    for (document, refusals), answer in zip(cases, answers, strict=True):
        found = tuple("error" in answer[name] for name in ("ethers", "viem"))
        assert found == refusals
        assert _digest(document) is None
    # The order of the domain: both accept it, and compute different digests.
    assert answers[2]["ethers"]["digest"] != answers[2]["viem"]["digest"]


OPERATION: dict[str, Any] = {
    "sender": "0x" + "11" * 20,
    "nonce": 2**70,
    "callData": "0x" + "b6" * 100,
    "callGasLimit": 10**6,
    "verificationGasLimit": 10**6,
    "preVerificationGas": 50_000,
    "maxFeePerGas": 10**9,
    "maxPriorityFeePerGas": 10**8,
    "paymaster": "0x" + "22" * 20,
    "paymasterVerificationGasLimit": 1,
    "paymasterPostOpGasLimit": 2,
    "paymasterData": "0x33",
    "signature": "0x" + "ff" * 65,
}


def test_user_operations_of_viem() -> None:
    """
    ERC-4337, entry point 0.8: viem sends a member that the type does not have.

    It is not signed, and so it is not in the document.
    """
    unsigned = {name: each for name, each in OPERATION.items() if name != "signature"}
    signed, dummy = ask_javascript(operations=[OPERATION, unsigned])["operations"]

    sent = json.loads(signed["payload"])
    assert sent["message"]["signature"] == OPERATION["signature"]
    for answer in (signed, dummy):
        document = TypedData.parse(answer["payload"])
        assert "0x" + document.digest().hex() == answer["digest"] == signed["digest"]
        assert recognise(document).kind == "user-operation"
        assert "signature" not in document.message
    for change in ({"more": "0x"}, {"signature": 7}, {"signature": "0x7"}):
        message = {**sent["message"], **change}
        assert _digest({**sent, "message": message}) is None
    # Of any other type, even one that begins alike, it stays a member too many.
    types = {
        **sent["types"],
        "PackedUserOperation": sent["types"]["PackedUserOperation"][:-1],
    }
    message = {**sent["message"]}
    del message["paymasterAndData"]
    assert _digest({**sent, "types": types, "message": message}) is None


def test_personal_messages() -> None:
    """Messages of any bytes have the same digest."""
    random = Random(45)
    messages = [
        b"",
        b"hello",
        *(random.randbytes(n) for n in (1, 9, 10, 99, 100, 1000)),
    ]

    answers = ask_javascript(personal=messages)["personal"]

    for message, answer in zip(messages, answers, strict=True):
        digest = "0x" + PersonalMessage.parse(message).digest().hex()
        assert answer == {"ethers": digest, "viem": digest}
