"""Whom the documents that a caller has signed pay, as limits for recipients count."""

from datetime import UTC, datetime

import pytest

from signer.clear_signing.typed_data import recognise
from signer.config.networks import Network
from signer.crypto.typed_data import TypedData
from signer.policy.facts import Caller, KnownNetwork, Path, Surroundings
from signer.policy.message_facts import typed_data_facts
from tests.unit.signer.clear_signing import documents as d


NETWORK = Network.model_validate(
    {
        "chain_id": 1,
        "rpc_urls": ["http://127.0.0.1:9"],
        "tokens": {"USDC": {"address": d.USDC, "decimals": 6, "max_amount": "9"}},
    }
)


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
    known = KnownNetwork.of("local", NETWORK)
    at = datetime(2026, 1, 2, tzinfo=UTC)
    surroundings = Surroundings(
        Caller(Path.REST), d.OWNER, at, known, networks=(known,)
    )
    digest = document.digest()
    facts = typed_data_facts(document, recognise(document), digest, surroundings)

    assert {(each.token, each.recipient) for each in facts.moved} == {
        ("USDC", recipient)
    }
