"""Raised limits that wait for an approval are put back to the accepted ones."""

from collections.abc import Mapping
from typing import Any

import pytest

from signer.config.digest import Configuration
from signer.config.file_limits import (
    FileLimits,
    Files,
    keep_limits,
    raised_limits,
    read_limits,
)
from signer.config.networks import Network
from signer.config.tenants import Tenant


TOKEN = {
    "address": "0x5FbDB2315678afecb367f032d93F642f64180aa3",
    "decimals": 6,
    "max_amount": "1000",
}


def _files(tenants: Mapping[str, Any] | None = None, **changes: Any) -> Files:
    network = {
        "chain_id": 31337,
        "rpc_urls": ["http://127.0.0.1:9"],
        "confirmations": 3,
        "tokens": {"TUSD": TOKEN},
        **changes,
    }
    given = {"shop": {"subjects": ["pod-1"]}} if tenants is None else tenants
    return Files(
        {"local": Network.model_validate(network)},
        {name: Tenant.model_validate(each) for name, each in given.items()},
    )


def _limits(files: Files, **policy: str) -> FileLimits:
    rules = {"policy": policy} if policy else {}
    tenants = files.tenants or {}
    return read_limits(
        Configuration.of(
            limits={}, networks=files.networks, tenants=tenants, **rules
        ).document
    )


RAISED = {
    "a higher maximum": _files(tokens={"TUSD": {**TOKEN, "max_amount": "5000"}}),
    "a lower minimum": _files(confirmations=1),
    "another contract": _files(
        tokens={
            "TUSD": {**TOKEN, "address": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"}
        }
    ),
    "a new token": _files(
        tokens={
            "TUSD": TOKEN,
            "NEW": {**TOKEN, "address": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"},
        }
    ),
    "a new tenant": _files(
        {"shop": {"subjects": ["pod-1"]}, "new": {"subjects": ["pod-2"]}}
    ),
    "a vault": _files(vault="0x70997970C51812dc3A010C7d01b50e0d17dc79C8"),
    "a new caller": _files({"shop": {"subjects": ["pod-1", "pod-2"]}}),
    "another caller": _files({"shop": {"subjects": ["pod-1"], "client_ids": ["c"]}}),
}


@pytest.mark.parametrize("name", RAISED)
def test_what_is_raised_is_put_back(name: str) -> None:
    accepted, pushed = _files(), RAISED[name]
    before, after = _limits(accepted), _limits(pushed)
    kept = keep_limits(pushed, before, after)

    assert raised_limits(before, after)
    assert kept == accepted


def test_a_new_network_is_left_out() -> None:
    accepted = _files()
    other = accepted.networks["local"].model_copy(update={"chain_id": 5})
    pushed = Files({**accepted.networks, "other": other}, accepted.tenants)

    assert keep_limits(pushed, _limits(accepted), _limits(pushed)) == accepted


def test_a_network_that_had_a_vault_keeps_it() -> None:
    """To leave it out, or to name another one, moves where tokens come from."""
    accepted = _files(vault=TOKEN["address"], max_batch=7)
    for pushed in (_files(), RAISED["a vault"]):
        kept = keep_limits(pushed, _limits(accepted), _limits(pushed))

        assert kept is not None
        assert kept.networks["local"].vault == TOKEN["address"]


def test_what_is_not_raised_stays() -> None:
    """Lower limits, timeouts and URLs of the new files are in force."""
    pushed = _files(
        confirmations=9,
        rpc_timeout_ms=1234,
        tokens={"TUSD": {**TOKEN, "max_amount": "5000", "min_amount": "2"}},
    )
    kept = keep_limits(pushed, _limits(_files()), _limits(pushed))

    assert kept is not None
    network = kept.networks["local"]
    assert (network.confirmations, network.rpc_timeout_ms) == (9, 1234)
    assert network.rpc_urls == pushed.networks["local"].rpc_urls
    token = network.tokens["TUSD"]
    assert (token.max_amount, token.min_amount) == ("1000", "2")


def test_a_minimum_that_was_removed() -> None:
    limited = {"TUSD": {**TOKEN, "min_amount": "2"}}
    kept = keep_limits(_files(), _limits(_files(tokens=limited)), _limits(_files()))

    assert kept == _files(tokens=limited)


def test_rules_are_known_by_their_hash_only() -> None:
    files = _files()

    assert keep_limits(files, _limits(files, a="x"), _limits(files, a="y")) is None


def test_what_is_left_may_not_be_valid() -> None:
    """A tenant whose only caller is another one than before."""
    pushed = _files({"shop": {"subjects": ["pod-2"]}})

    assert keep_limits(pushed, _limits(_files()), _limits(pushed)) is None
