"""The canonical form and the hash of the configuration, and what differs."""

import hashlib
import json
from collections.abc import Mapping

import pytest
import rfc8785

from signer.config.digest import (
    Configuration,
    describes,
    hash_document,
    read_configuration,
)
from signer.config.networks import Network
from signer.config.settings import Settings
from signer.config.tenants import Tenant
from tests.support.signed_requests import RequestKey


TOKEN = {
    "address": "0x5FbDB2315678afecb367f032d93F642f64180aa3",
    "decimals": 6,
    "max_amount": "1000",
}
SHOP = Tenant(subjects=("shop-1",), max_open_refunds=5)
SECRET = "https://rpc.example.com/v3/f00dcafe"


def _network(**changes: object) -> Network:
    given = {"chain_id": 1, "rpc_urls": [SECRET], "tokens": {"TUSD": TOKEN}}
    return Network.model_validate({**given, **changes})


def _configuration(network: Network | None = None, **environ: str) -> Configuration:
    networks = {"local": network or _network()}
    return read_configuration(Settings.from_env(environ), networks, {"shop": SHOP})


def test_the_hash_is_that_of_the_canonical_document() -> None:
    """An auditor recomputes it from the recorded document (RFC 8785, SHA-256)."""
    found = _configuration()
    document = json.loads(json.dumps(found.document))

    assert found.hash == hashlib.sha256(rfc8785.dumps(document)).hexdigest()
    assert found.hash.startswith(found.short)
    assert len(found.short) == 16
    assert describes(document, found.hash)
    assert not describes(document, "0" * 64)


def test_settings_that_decide_are_in_the_document_if_they_are_set() -> None:
    found = _configuration(REQUIRE_APPROVALS="keys", BIND="127.0.0.1:80")

    assert found.document["settings"] == {"REQUIRE_APPROVALS": "keys"}
    assert "settings" not in _configuration().document


def test_no_secret_is_in_the_document() -> None:
    """The URLs of nodes are masked; only their number counts."""
    found = _configuration()
    other = _configuration(_network(rpc_urls=["https://other.example.com"]))
    two = _configuration(_network(rpc_urls=[SECRET, SECRET]))

    assert "f00dcafe" not in str(found.document) + repr(found)
    assert found.document["networks"]["local"]["rpc_urls"] == ["**********"]
    assert found.hash == other.hash
    assert found.hash != two.hash


@pytest.mark.parametrize(
    ("network", "environ", "field"),
    [
        (_network(chain_id=2), {}, "networks.local.chain_id"),
        (_network(confirmations=1), {}, "networks.local.confirmations"),
        (_network(vault=TOKEN["address"]), {}, "networks.local.vault"),
        (_network(max_batch=99), {}, "networks.local.max_batch"),
        (
            _network(tokens={"TUSD": {**TOKEN, "daily_limit": "5000"}}),
            {},
            "networks.local.tokens.TUSD.daily_limit",
        ),
        (_network(), {"RATE_LIMIT_ADMIN": "9"}, "limits.RATE_LIMIT_ADMIN"),
        (_network(), {"ROTATION_NEEDS_FUNDS": "true"}, "limits.ROTATION_NEEDS_FUNDS"),
    ],
)
def test_a_change_has_its_field_and_another_hash(
    network: Network, environ: Mapping[str, str], field: str
) -> None:
    before, after = _configuration(), _configuration(network, **environ)

    assert before.hash != after.hash
    assert list(after.changes_from(before.document)) == [field]


def test_the_request_keys_of_tenants_are_evidence() -> None:
    """An added key, which could request refunds, is a change with its value."""
    key = RequestKey()
    signing = SHOP.model_copy(update={"request_keys": {"mine": key.public}})
    before = _configuration()
    after = read_configuration(
        Settings.from_env({}), {"local": _network()}, {"shop": signing}
    )

    assert after.changes_from(before.document) == {
        "tenants.shop.request_keys.mine": {"after": key.public}
    }


def test_a_change_has_both_values() -> None:
    """A field that is added has no value before, a removed one none after."""
    more = _configuration(
        _network(tokens={"TUSD": {**TOKEN, "max_amount": "2"}, "B": TOKEN})
    )
    changes = more.changes_from(_configuration().document)
    back = _configuration().changes_from(more.document)

    assert changes["networks.local.tokens.TUSD.max_amount"] == {
        "before": "1000",
        "after": "2",
    }
    assert changes["networks.local.tokens.B.decimals"] == {"after": 6}
    assert back["networks.local.tokens.B.decimals"] == {"before": 6}


def test_large_integers_keep_their_value() -> None:
    """JSON readers round integers above 2**53; they become strings."""
    found = Configuration.of(limits={"wei": [2**53, 2**53 - 1, True]})

    assert found.document == {"limits": {"wei": [str(2**53), 2**53 - 1, True]}}
    assert found.hash == hash_document(found.document)
    # A record with "[redacted]" describes only a document with that text.
    assert not describes({"limits": {"wei": "[redacted]"}}, found.hash)


@pytest.mark.parametrize(
    ("before", "after", "field"),
    [
        ({"pay-token": {"max": "1"}}, {"pay-token": {"max": "2"}}, "pay-token.max"),
        ({"amounts": {"PIN": "1"}}, {"amounts": {"PIN": "2"}}, "amounts.PIN"),
        ({"max": "999999999999"}, {"max": "999999999998"}, "max"),
        ({"subject": "eu-west-1"}, {"subject": "eu-west-2"}, "subject"),
    ],
)
def test_a_limit_that_looks_like_a_secret_is_compared(
    before: Mapping[str, object], after: Mapping[str, object], field: str
) -> None:
    """Names and values that a log would redact differ, and have their own hash."""
    old, new = Configuration.of(limits=before), Configuration.of(limits=after)

    assert list(new.changes_from(old.document)) == [f"limits.{field}"]
    assert describes(new.document, new.hash)
    assert not describes(old.document, new.hash)
