"""A form of fees is declared once, and known wherever it matters."""

import re
from pathlib import Path
from typing import get_args

import pytest

from api.extras.books.entries import Assets
from signer.config.networks import KINDS, TOKEN_FEES, FeeForm, Network
from signer.config.tenants import TenantRegistry
from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions import TOKEN_FEE_CLASSES, SignedBytes
from signer.policy.default_rules import service_files
from tests.fixtures.scripted_chain import TOKEN
from tests.support.policy import NETWORKS


ROOT = Path(__file__).resolve().parents[3]


def _row(page: str, name: str) -> str:
    text = (ROOT / "docs/reference" / page).read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{name}` \|.*$", text, re.MULTILINE)
    return str(row)


@pytest.mark.parametrize("form", get_args(FeeForm))
def test_networks_can_have_each_form(form: FeeForm) -> None:
    """Its row names it, and the books of a network know what collects its fees."""
    token = {"address": TOKEN, "decimals": 6, "max_amount": "1000"}
    network = Network.model_validate(
        {
            "chain_id": 1,
            "rpc_urls": ["http://127.0.0.1:9"],
            "fees": form,
            "coin_is": "TUSD",
            "tokens": {"TUSD": token},
        }
    )

    assert f"`{form}`" in _row("networks.md", "fees")
    assert Assets(network, []).fee(1) == (10**12 if form in TOKEN_FEES else 1)


@pytest.mark.parametrize("form", TOKEN_FEES)
def test_transactions_of_each_form_are_known(form: FeeForm) -> None:
    """They are decoded, the policy permits their type, and a kind has the form."""
    transaction = TOKEN_FEE_CLASSES[TOKEN_FEES[form]](
        chain_id=1,
        nonce=7,
        gas=60_000,
        max_fee_per_gas=10**11,
        max_priority_fee_per_gas=10**9,
        to=TOKEN,
        value=0,
        data=b"",
        fee_token=TOKEN,
    )
    texts = [each.text for each in service_files(NETWORKS, TenantRegistry())]
    permitted = re.findall(r"\[([\d, ]+)\]\.contains\(context\.type\)", "".join(texts))

    assert SignedBytes.of(transaction, Signature(5, 6, 1)).transaction == transaction
    assert len(permitted) == 3
    assert all(str(transaction.type) in each.split(", ") for each in permitted)
    assert str(transaction.type) in _row("policy.md", "type")
    assert form in {each.get("fees") for each in KINDS.values()}
