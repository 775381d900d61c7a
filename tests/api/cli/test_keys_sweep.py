"""``hotwallet keys sweep``, with a real token, a real chain and a real worker."""

import secrets
from dataclasses import replace

import pytest

from api.bootstrap import open_container
from backends.pkcs11 import PKCS11Backend
from backends.sql import SQLStore
from dev import stablecoin as coin
from signer.crypto.der import parse_public_key
from signer.model.refund import OPERATOR
from signer.ports.key_backend import KeyId
from tests.api.commands import Run
from tests.fixtures.chain import DevChain
from tests.fixtures.ledger import refund_page
from tests.support.keys import key_at, made_active
from tests.support.waiting import eventually


TOKENS = 1_000_000 * 10**6


@pytest.fixture
def addresses(
    sqlite_store: SQLStore, softhsm: PKCS11Backend, fresh_anvil: DevChain
) -> tuple[str, str]:
    """The address of a former key, which has funds, and the active key's."""
    made = []
    for _ in range(2):
        key_id = softhsm.generate(secrets.token_hex(8))
        address = parse_public_key(softhsm.public_key(KeyId(key_id))).address
        key = replace(key_at(address, key_id=key_id), backend=softhsm.name)
        made_active(sqlite_store, key)
        made.append(address)
    coin.fund(fresh_anvil.url, made[0], token=fresh_anvil.token, amount=TOKENS)
    return made[0], made[1]


@pytest.fixture
def run(
    run: Run,
    addresses: tuple[str, str],
    sqlite_store: SQLStore,
    softhsm_environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    active = sqlite_store.active_key()
    assert active is not None
    for name, value in softhsm_environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PKCS11_KEY_ID", active.key_id)
    return run


def _run_worker(store: SQLStore) -> None:
    """Run a worker until all transfers are final; anvil mines with a delay."""
    worker = open_container(serving=False).worker

    def has_ended() -> bool:
        worker.work()
        return all(
            sweep.status.is_final for sweep in refund_page(store, OPERATOR).refunds
        )

    assert eventually(has_ended, patience=60)


def test_moves_everything(
    run: Run,
    addresses: tuple[str, str],
    fresh_anvil: DevChain,
    sqlite_store: SQLStore,
) -> None:
    """Repeating the command moves tokens, then the coin, each of them once."""
    old, new = addresses
    finished = run("keys", "sweep", old, "--yes")
    again = run("keys", "sweep", old, "--yes", "--json")
    _run_worker(sqlite_store)
    second = run("keys", "sweep", old, "--yes")
    _run_worker(sqlite_store)
    last = run("keys", "sweep", old, "--dry-run")
    none = run("keys", "sweep", old, "--yes", "--json")

    assert [finished.status, again.status, second.status] == [1, 1, 0]
    moving = f"TUSD: queued as {again.json[0]['refund']}"
    assert finished.out.splitlines()[0].endswith(moving)
    assert "coin: queued as rf_" in second.out
    assert (last.status, last.out) == (0, "nothing is left there\n")
    assert (none.status, none.json) == (0, [])
    assert coin.balance_of(fresh_anvil.url, fresh_anvil.token, new) == TOKENS
    assert int(fresh_anvil.rpc("eth_getBalance", new, "latest"), 16) > 9 * 10**18
