"""Typed data and messages have the digests that ethers and viem compute."""

import json
from random import Random
from typing import Any

import pytest
from eth_account.messages import encode_typed_data

from signer.crypto.messages import PersonalMessage, message_digest
from signer.crypto.typed_data import TypedData
from signer.errors import InvalidInputError
from tests.support.javascript import ask_javascript
from tests.support.typed_documents import changed_document, valid_document


def _digest(document: object) -> str | None:
    """Return the digest as hex with 0x; None if the document is refused."""
    try:
        return "0x" + TypedData.parse(document).digest().hex()
    except InvalidInputError:
        return None


def _require_valid(seed: int, count: int) -> None:
    random = Random(seed)
    documents = [valid_document(random) for _ in range(count)]
    answers = ask_javascript(typed=documents)["typed"]
    for document, answer in zip(documents, answers, strict=True):
        ours = TypedData.parse(json.dumps(document))
        digest = "0x" + ours.digest().hex()
        eth_account = message_digest(encode_typed_data(full_message=document))
        assert answer["ethers"].get("digest") == digest, (document, answer)
        assert answer["viem"].get("digest") == digest, (document, answer)
        assert "0x" + eth_account.hex() == digest, document
        assert answer["ethers"]["type"] == ours.encode_type()
        for library in ("ethers", "viem"):
            assert TypedData.parse(answer[library]["payload"]) == ours


def _require_strict(seed: int, count: int) -> None:
    """Require that what is accepted is accepted by both, with the same digest."""
    random = Random(seed)
    documents = [changed_document(random) for _ in range(count)]
    answers = ask_javascript(typed=documents)["typed"]
    refused = 0
    for document, answer in zip(documents, answers, strict=True):
        digest = _digest(document)
        if digest is None:
            refused += 1
            continue
        digests = [answer[name].get("digest") for name in ("ethers", "viem")]
        assert digests == [digest, digest], (document, answer)
    assert refused > count / 2


def test_generated_documents() -> None:
    """
    Valid documents have one digest and one type string everywhere.

    What the libraries send to a signer is the same document.
    """
    _require_valid(seed=712, count=60)


def test_changed_documents() -> None:
    """T3: a document that ethers or viem refuses is refused."""
    _require_strict(seed=191, count=150)


@pytest.mark.soak
def test_2000_documents() -> None:
    """2,000 valid and 4,000 changed documents, without a difference."""
    _require_valid(seed=2000, count=2000)
    _require_strict(seed=4000, count=4000)


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
