"""What rules and limits know of the messages and documents that callers have signed."""

from datetime import UTC, datetime

import pytest
from eth_account.messages import SignableMessage

from signer.clear_signing.typed_data import recognise
from signer.config.networks import Network
from signer.crypto.typed_data import TypedData
from signer.policy.facts import Caller, KnownNetwork, MessageFacts, Path, Surroundings
from signer.policy.message_facts import message_facts, typed_data_facts
from tests.unit.signer.clear_signing import documents as d


NETWORK = Network.model_validate(
    {
        "chain_id": 1,
        "rpc_urls": ["http://127.0.0.1:9"],
        "tokens": {"USDC": {"address": d.USDC, "decimals": 6, "max_amount": "9"}},
    }
)


KNOWN = KnownNetwork.of("local", NETWORK)

AROUND = Surroundings(
    Caller(Path.REST),
    d.OWNER,
    datetime(2026, 1, 2, tzinfo=UTC),
    KNOWN,
    networks=(KNOWN,),
)


@pytest.mark.parametrize(
    ("version", "header", "found"),
    [
        (b"E", b"thereum Signed Message:\n2", ("personal", None)),
        (b"\x00", bytes.fromhex(d.SPENDER[2:]), ("validator", d.SPENDER.lower())),
    ],
)
def test_a_message_is_for_people_or_for_one_contract(
    version: bytes, header: bytes, found: tuple[str, str | None]
) -> None:
    message = SignableMessage(version, header, b"hi")
    facts = message_facts(message, b"\x01" * 32, AROUND)

    assert isinstance(facts, MessageFacts)
    assert (facts.version, facts.validator) == found


@pytest.mark.parametrize(
    ("document", "recipient"),
    [
        (d.document(d.COW_ORDER, d.signed_for_others(d.COW_ORDER)), d.SPENDER),
        (d.document(d.ERC2612, d.permit()), d.SPENDER),
        (
            d.document(
                d.COW_ORDER, d.signed_for_others(d.COW_ORDER, receiver="0x" + "0" * 40)
            ),
            d.USDC,
        ),
    ],
    ids=["the recipient", "who may spend", "the contract, without both"],
)
def test_what_may_leave_is_counted_for(document: TypedData, recipient: str) -> None:
    digest = document.digest()
    facts = typed_data_facts(document, recognise(document), digest, AROUND)

    assert {(each.token, each.recipient) for each in facts.moved} == {
        ("USDC", recipient)
    }
