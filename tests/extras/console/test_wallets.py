"""The page of the wallets: nonces that are open, final or missing, and former keys."""

from typing import Any

import pytest

from api.container import Container
from api.extras.console.wallets import (
    Measurements,
    ShownWallet,
    read_measurements,
    read_wallets,
)
from backends.sql import SQLStore
from signer.model.key import KeyState
from signer.model.refund import Status
from signer.model.wallet import Pause
from signer.model.worker_row import WorkerRow
from signer.refunds.wallet_reconciliation import MOST_OPEN
from tests.api.browser import Browser
from tests.api.readings import measured
from tests.api.support import SettableClock
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    broadcast,
    moved,
    opened,
    reserved,
    unrecorded,
)
from tests.fixtures.scripted_chain import CHAIN_ID
from tests.support.keys import key_at, made_active


def _shown(container: Container, **measured: Any) -> dict[str, ShownWallet]:
    found = read_wallets(container, container.store.keys(), Measurements(**measured))
    return {each.row.sender: each for each in found}


def _sent(store: SQLStore) -> Any:
    block = {"block_number": 1, "block_hash": "0x01"}
    return moved(store, broadcast(store), Status.MINED, **block)


def test_open_nonces_are_those_of_refunds_that_have_not_ended(
    container: Container, sqlite_store: SQLStore
) -> None:
    """All below the lowest of them are final."""
    sent = [_sent(sqlite_store) for _ in range(3)]
    moved(sqlite_store, sent[0], Status.CONFIRMED)
    moved(sqlite_store, sent[2], Status.CONFIRMED)
    one = _shown(container, chain_nonces={"local": 3.0})[WALLET]
    moved(sqlite_store, sent[1], Status.CONFIRMED)
    none = _shown(container)[WALLET]

    assert (one.row.next_nonce, one.chain_nonce) == (3, 3)
    assert (one.open, one.final_below, one.gaps) == (1, 1, ())
    assert (none.open, none.final_below, none.chain_nonce) == (0, 3, None)
    assert one.is_active


def test_missing_nonces_are_found(
    container: Container, sqlite_store: SQLStore, browser: Browser
) -> None:
    """Between those that are known; the chain has used none that is missing."""
    opened(sqlite_store, first=3)
    reserved(sqlite_store, accepted(sqlite_store), counted=3)
    row = sqlite_store.wallet(CHAIN_ID, WALLET)
    assert row is not None
    sqlite_store.add_unrecorded(row, [unrecorded(nonce=6)])
    shown = [
        _shown(container, **measured)[WALLET]
        for measured in (
            {},
            {"chain_nonces": {"local": 3.0}},
            {"chain_nonces": {"local": 7.0}},
            {"chain_nonces": {"local": float("nan")}},
            {"chain_nonces": {"local": 1e300}},
        )
    ]
    page = browser.get("/console/wallets").text

    assert [list(each.gaps) for each in shown] == [[4, 5], [4, 5], [], [4, 5], []]
    assert f"No refund has nonce 4, 5 of <code>{WALLET}</code> on local" in page
    assert "which this service did not make" in page


def test_a_long_queue_is_no_gap(
    container: Container, sqlite_store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page reads so many open refunds, and looks no further."""
    monkeypatch.setattr("signer.refunds.wallet_reconciliation.MOST_OPEN", 2)
    for _ in range(4):
        reserved(sqlite_store, accepted(sqlite_store))
    monkeypatch.setattr(sqlite_store, "unknown_nonces", None)
    shown = _shown(container, chain_nonces={"local": 0.0})[WALLET]

    assert (shown.open, shown.final_below, shown.gaps) == (2, 0, ())
    assert MOST_OPEN > 100


def test_wallets_of_former_keys_stay_in_the_list(
    container: Container, sqlite_store: SQLStore, browser: Browser
) -> None:
    """With the state of their key; only the active key's nonce is measured."""
    reserved(sqlite_store, accepted(sqlite_store))
    reserved(sqlite_store, accepted(sqlite_store), sender=OTHER_WALLET)
    shown = _shown(container, chain_nonces={"local": 1.0}, delegated=("local",))
    page = browser.get("/console/wallets").text

    former, active = shown[WALLET], shown[OTHER_WALLET]
    assert (former.key, active.key) == (KeyState.DRAINING, KeyState.ACTIVE)
    assert (former.chain_nonce, active.chain_nonce) == (None, 1)
    assert (former.is_delegated, active.is_delegated) == (False, True)
    assert 'class="badge key-draining">draining' in page
    assert 'class="badge warn">finishes' in page


def test_a_revoked_key_that_may_pay_from_a_vault_is_shown(
    container: Container, sqlite_store: SQLStore, browser: Browser, clock: SettableClock
) -> None:
    """Until a worker has seen that it cannot; unknown is not done."""
    made_active(sqlite_store, key_at(WALLET))
    made_active(sqlite_store, key_at(OTHER_WALLET), block=True)
    vault = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    local = container.networks["local"].model_copy(update={"vault": vault})
    container.networks = {"local": local, "plain": container.networks["local"]}
    step = f"hotwallet vault propose --network local --remove-operator {WALLET}"
    shown = [step in browser.get("/console/keys").text]
    for count in (1, 0):
        text = f'hotwallet_vault_revoked_operators{{network="local"}} {count}\n'
        row = WorkerRow(f"w{count}", clock.now, clock.now, measured(text))
        sqlite_store.record_pass(row)
        clock.advance(seconds=1)
        shown.append(step in browser.get("/console/keys").text)

    assert shown == [True, True, False]
    assert "network plain" not in browser.get("/console/keys").text


def test_a_pause_and_code_of_others_are_shown(
    sqlite_store: SQLStore, browser: Browser, clock: SettableClock
) -> None:
    """T7: the operator sees a delegation where the wallets are."""
    reserved(sqlite_store, accepted(sqlite_store))
    row = sqlite_store.wallet(CHAIN_ID, WALLET)
    assert row is not None
    sqlite_store.pause(row, Pause.CHAIN_AHEAD, clock.now)
    metrics = 'hotwallet_wallet_delegated{network="local"} 1\n'
    sqlite_store.record_pass(WorkerRow("a", clock.now, clock.now, measured(metrics)))
    page = browser.get("/console/wallets").text

    found = read_measurements(sqlite_store.workers(), clock.now)
    assert found.delegated == ["local"]
    assert "paused: chain-ahead" in page
    assert 'href="/console/codes/wallet-delegated">has code of others' in page
