"""``hotwallet reconcile`` and ``refund export``, on anvil and a real ledger."""

import csv
import io
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_account import Account
from eth_utils.crypto import keccak
from sqlalchemy import Connection, insert, update

from api.cli.options import parse_moment
from api.extras.books.commands import with_progress
from api.extras.books.comparison import Progress
from backends.sql import SQLStore, tables
from dev import stablecoin as coin
from signer.chain.erc20 import encode_transfer
from signer.model.refund import Refund, Status
from tests.api.commands import Finished, Run
from tests.fixtures.chain import DevChain
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.ledger import as_if, filled, queued, transaction
from tests.fixtures.replies import Error
from tests.support.ledgers import ROW_MACS
from tests.support.payments import RECIPIENT, hash_of, signed
from tests.support.refunds import CUSTOMER, KEY, World
from tests.support.waiting import eventually


ACCOUNT = Account.from_key(KEY.secret)

PERIOD = ("--from", "2000-01-01", "--to", "2100-01-01")


class Shop:
    """A service that pays on anvil, and what other programs do to it."""

    def __init__(self, world: World, dev: DevChain) -> None:
        self.world, self.dev = world, dev

    def paid(self, **changes: Any) -> Refund:
        """Return a refund that is confirmed on the chain."""
        return self.track(self.world.broadcast(**changes))

    def track(self, refund: Refund) -> Refund:
        assert eventually(lambda: self.world.tracked(refund).status.is_final)
        return self.world.stored(refund)

    def spend(self, data: bytes = b"", **changes: Any) -> str:
        nonce = int(
            self.dev.rpc("eth_getTransactionCount", ACCOUNT.address, "latest"), 16
        )
        raw = signed(ACCOUNT, nonce=nonce, data=data, **changes)
        tx_hash: str = self.dev.rpc("eth_sendRawTransaction", f"0x{raw.hex()}")
        return self.mined(tx_hash)

    def mined(self, tx_hash: str) -> str:
        """Wait until a transaction is mined: anvil answers before that."""
        assert eventually(lambda: self.dev.rpc("eth_getTransactionReceipt", tx_hash))
        return tx_hash

    def transfer(self, recipient: str, amount: int, memo: bytes = b"") -> str:
        data = coin.calldata("transfer(address,uint256)", recipient, amount) + memo
        return self.spend(data, to=self.dev.token)

    def change(self, refund: Refund, **changes: Any) -> None:
        """Change a row with a valid MAC, which only a bug of the service could do."""
        store = self.world.store
        found = store.get(refund.id)
        assert found is not None
        made = as_if(found, **changes)
        made = replace(made, mac=ROW_MACS.compute(made))

        def work(connection: Connection) -> None:
            for table, row in (
                (tables.refunds, made),
                (tables.transactions, made.transaction),
            ):
                for rule in ("keep", "follow"):
                    name = f"{table.name}_{rule}"
                    connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")
                if row is not None:
                    values = {each.name: getattr(row, each.name) for each in table.c}
                    key = (each == values[each.name] for each in table.primary_key)
                    connection.execute(update(table).where(*key).values(values))

        store._database.run(work)  # type: ignore[attr-defined]


@pytest.fixture
def shop(world: World, fresh_anvil: DevChain) -> Shop:
    """A shop with two honest refunds, whose wallet could pay before."""
    shop = Shop(world, fresh_anvil)
    for _ in range(2):
        shop.paid()
    return shop


_MANY = 10_000
_PER_BLOCK = 250


def _paid_many(shop: Shop) -> None:
    """Write and mine refunds as the service does, but many at a time."""
    world, rpc = shop.world, shop.dev.rpc
    first = int(rpc("eth_getTransactionCount", ACCOUNT.address, "latest"), 16)
    rows, attempts = list[Refund](), list[dict[str, Any]]()
    rpc("evm_setAutomine", False)
    for start in range(first, first + _MANY, _PER_BLOCK):
        page = [_signed_refund(shop, start + place) for place in range(_PER_BLOCK)]
        for _, raw in page:
            rpc("eth_sendRawTransaction", f"0x{raw.hex()}")
        rpc("evm_mine")
        block = rpc("eth_getBlockByNumber", "latest", False)
        assert len(block["transactions"]) == _PER_BLOCK
        number, block_hash = int(block["number"], 16), block["hash"]
        for refund, raw in page:
            found = as_if(refund, block_number=number, block_hash=block_hash)
            rows.append(found)
            attempts.append(asdict(transaction(found, tx_hash=found.tx_hash, raw=raw)))
    rpc("evm_setAutomine", True)
    store = world.store
    assert isinstance(store, SQLStore)
    filled(store, rows)
    store._database.transaction(lambda c: c.execute(insert(tables.attempts), attempts))


def _signed_refund(shop: Shop, nonce: int) -> tuple[Refund, bytes]:
    refund = queued(
        token_address=shop.dev.token,
        network="local",
        amount=1 + nonce,
        sender=ACCOUNT.address,
        key_id="01",
        nonce=nonce,
        gas_limit=65_000,
        status=Status.CONFIRMED,
    )
    data = encode_transfer(refund.recipient, refund.amount, refund.memo)
    raw = signed(ACCOUNT, nonce=nonce, data=data, to=shop.dev.token, gas=65_000)
    return as_if(refund, tx_hash=hash_of(raw)), raw


@pytest.mark.soak
def test_ten_thousand_honest_refunds(run: Run, shop: Shop) -> None:
    """On a real chain and a real ledger there is no difference."""
    _paid_many(shop)

    tracemalloc.start()
    finished = _reconcile(run)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (finished.status, _codes(finished)) == (0, [])
    assert peak < 48 * 2**20
    (network,) = finished.json["networks"]
    assert network["refunds"] == _MANY + 2


def test_progress_is_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On standard error, and nowhere else."""
    shown = {is_terminal: io.StringIO() for is_terminal in (True, False)}
    for is_terminal, stream in shown.items():
        monkeypatch.setattr(stream, "isatty", lambda it=is_terminal: it)
        monkeypatch.setattr(sys, "stderr", stream)
        events = iter([Progress(1, 4), Progress(4, 4)])

        assert list(with_progress(events, "base")) == []

    assert "base" in shown[True].getvalue()
    assert "100%" in shown[True].getvalue()
    assert shown[False].getvalue() == ""


def _codes(finished: Finished) -> list[str]:
    return sorted(each["code"] for each in finished.json["differences"])


def _reconcile(run: Run, *arguments: str) -> Finished:
    return run("reconcile", *PERIOD, "--json", *arguments)


def test_honest_refunds_have_no_difference(run: Run, shop: Shop) -> None:
    """Status 0, and for each asset opening, plus in, minus out, is closing."""
    finished = _reconcile(run)

    assert (finished.status, _codes(finished)) == (0, [])
    (network,) = finished.json["networks"]
    assert (network["refunds"], network["sweeps"], network["others"]) == (2, 0, 0)
    assert network["notes"] == []
    tokens, money = (
        next(each for each in network["accounts"] if each["asset"] == asset)
        for asset in ("TUSD", "coin")
    )
    assert tokens["refunds"] == "25.000000"
    assert tokens["received"] == "1000000.000000"
    assert tokens["closing"] == "999975.000000"
    assert money["received"] == "10.000000000000000000"
    assert float(money["fees"]) > 0


def _cancelled_but_paid(shop: Shop) -> None:
    refund = shop.world.accepted()
    shop.change(refund, status="cancelled")
    shop.transfer(CUSTOMER, refund.amount, refund.memo)


def _paid_twice(shop: Shop) -> None:
    refund = shop.paid()
    shop.transfer(CUSTOMER, refund.amount, refund.memo)


def _transfer_without_refund(shop: Shop) -> None:
    shop.transfer(RECIPIENT, 5)


def _foreign_transaction(shop: Shop) -> None:
    shop.spend(b"\x01\x02")
    shop.world.reconcile()


def _confirmed_but_missing(shop: Shop) -> None:
    refund = shop.world.step(shop.world.accepted(), times=2)
    block = int(shop.dev.rpc("eth_blockNumber"), 16)
    shop.change(
        refund, status="confirmed", block_number=block, block_hash="0x" + "00" * 32
    )


def _refund_without_transfer(shop: Shop) -> None:
    refund = shop.world.step(shop.world.accepted(), times=2)
    coin.administer(shop.dev.url, shop.dev.token, "setPaused(bool)", True)
    shop.mined(str(shop.world.step(refund).tx_hash))
    coin.administer(shop.dev.url, shop.dev.token, "setPaused(bool)", False)
    shop.change(shop.track(refund), status="confirmed")


def _row_changed(shop: Shop) -> None:
    refund = shop.paid()

    def work(connection: Connection) -> None:
        connection.exec_driver_sql("DROP TRIGGER IF EXISTS refunds_keep")
        connection.exec_driver_sql(
            "UPDATE refunds SET recipient = ? WHERE id = ?", (RECIPIENT, refund.id)
        )

    shop.world.store._database.run(work)  # type: ignore[attr-defined]


def _fee_mismatch(shop: Shop) -> None:
    refund = shop.paid()

    def work(connection: Connection) -> None:
        connection.exec_driver_sql("DROP TRIGGER IF EXISTS attempts_keep")
        connection.exec_driver_sql(
            "UPDATE attempts SET gas_limit = 1 WHERE nonce = ?", (refund.nonce,)
        )

    shop.world.store._database.run(work)  # type: ignore[attr-defined]


def _mined_but_open(shop: Shop) -> None:
    shop.mined(str(shop.world.broadcast().tx_hash))
    shop.dev.rpc("evm_increaseTime", 7200)
    shop.dev.rpc("evm_mine")


def _balance_mismatch(shop: Shop) -> None:
    # A blocked or rebased token moves amounts without an event: the issuer cannot, so
    # the chain's storage is changed.
    address = shop.world.signer.address
    slot = _balance_slot(shop, address)
    shop.dev.rpc("anvil_setStorageAt", shop.dev.token, slot, f"0x{7:064x}")
    shop.dev.rpc("evm_mine")


def _balance_slot(shop: Shop, address: str) -> str:
    for position in range(6):
        key = keccak(encode(["address", "uint256"], [address, position]))
        slot = "0x" + key.hex()
        found = int(
            shop.dev.rpc("eth_getStorageAt", shop.dev.token, slot, "latest"), 16
        )
        held = coin.balance_of(shop.dev.url, shop.dev.token, address)
        if found == held > 0:
            return slot
    raise AssertionError("no slot has the balance")


PLANTED: dict[str, Callable[[Shop], object]] = {
    "refund-without-transfer": _refund_without_transfer,
    "confirmed-but-missing": _confirmed_but_missing,
    "transfer-without-refund": _transfer_without_refund,
    "coin-without-refund": lambda shop: shop.spend(value=5),
    "unknown-transaction": lambda shop: shop.spend(b"\x01\x02"),
    "foreign-transaction": _foreign_transaction,
    "wrong-amount": lambda shop: shop.change(shop.paid(), amount=12_500_001),
    "wrong-recipient": lambda shop: shop.change(shop.paid(), recipient=RECIPIENT),
    "wrong-block": lambda shop: shop.change(shop.paid(), block_hash="0x" + "00" * 32),
    "paid-twice": _paid_twice,
    "refused-but-paid": lambda shop: shop.change(shop.paid(), status="failed"),
    "refused-but-paid, without a nonce": _cancelled_but_paid,
    "mined-but-open": _mined_but_open,
    "fee-mismatch": _fee_mismatch,
    "balance-mismatch": _balance_mismatch,
    "row-changed": _row_changed,
}


def test_what_is_left_out_is_no_agreement(run: Run, shop: Shop) -> None:
    """Refunds of a chain that the networks file does not have any more."""
    store = shop.world.store
    assert isinstance(store, SQLStore)
    block = {"block_number": 7, "block_hash": "0x07"}
    paid = queued(
        status=Status.CONFIRMED, chain_id=5, network="gone", tx_hash="0x5", **block
    )
    filled(store, [paid])

    whole, one = _reconcile(run), run("reconcile", *PERIOD, "--network", "local")

    assert whole.json["not_compared"] == {
        "gone": "not-found: 1 refunds of chain 5, which no network has"
    }
    assert whole.json["ok"] is False
    assert "gone" not in one.out


# What does not hide another one; ``tests/extras/books`` plants each by itself.
TOGETHER = [
    [
        "refund-without-transfer",
        "wrong-amount",
        "wrong-recipient",
        "wrong-block",
        "refused-but-paid",
        "fee-mismatch",
        "row-changed",
        "paid-twice",
        "transfer-without-refund",
        "coin-without-refund",
    ],
    [
        "mined-but-open",
        "refused-but-paid, without a nonce",
        "unknown-transaction",
        "balance-mismatch",
    ],
    ["foreign-transaction"],
    ["confirmed-but-missing"],
]


@pytest.mark.parametrize("names", TOGETHER, ids=lambda names: names[0])
def test_planted_differences_are_found_on_a_real_chain(
    run: Run, shop: Shop, names: list[str]
) -> None:
    """Each by its name, among honest refunds; nothing else is reported."""
    for name in names:
        PLANTED[name](shop)

    finished, lines = _reconcile(run), run("reconcile", *PERIOD)

    assert _codes(finished) == sorted(name.partition(",")[0] for name in names)
    assert (finished.status, lines.status) == (1, 1)
    assert lines.out.count("DIFFERENCE ") == len(names)


def test_each_difference_is_planted() -> None:
    assert sorted(PLANTED) == sorted(name for names in TOGETHER for name in names)


def test_nodes_that_do_not_answer(
    run: Run, shop: Shop, networks: Callable[..., Path]
) -> None:
    """Nothing was compared: status 2, not 0 or 1."""
    networks("http://127.0.0.1:9")

    finished = _reconcile(run)
    lines = run("reconcile", *PERIOD)

    assert finished.status == lines.status == 2
    assert finished.json["not_compared"]["local"].startswith("chain-unavailable")
    assert "NOT COMPARED local: chain-unavailable" in lines.out


def test_nodes_without_old_states(
    run: Run, shop: Shop, fault_proxy: FakeNode, networks: Callable[..., Path]
) -> None:
    """Transfers are compared; the report says that balances were not."""
    networks(fault_proxy.url)
    for method in ("eth_getBalance", "eth_call"):
        fault_proxy.script(method, Error(-32000, "missing trie node"))

    finished = _reconcile(run)

    (network,) = finished.json["networks"]
    assert finished.status == 0
    assert network["refunds"] == 2
    assert "balances" in network["notes"][0]
    assert "NOTE balances" in run("reconcile", *PERIOD).out


def test_files(run: Run, shop: Shop, tmp_path: Path) -> None:
    """The CSV has a row per difference; the page needs nothing else; it is an alert."""
    _transfer_without_refund(shop)
    names = {each: tmp_path / f"books.{each}" for each in ("csv", "html", "ledger")}
    table, page, ledger = names.values()

    files = [word for name, path in names.items() for word in (f"--{name}", str(path))]
    finished = run("reconcile", *PERIOD, *files)

    assert finished.status == 1
    assert "books-differ" in finished.err
    assert shop.world.store.alert_counts()["books-differ"] == 1
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    kinds = [each["record"] for each in rows]
    assert kinds.count("difference") == 1
    assert {"account"} < {*kinds}
    assert rows[0]["code"] == "transfer-without-refund"
    text = page.read_text(encoding="utf-8")
    booked = list(csv.DictReader(ledger.read_text(encoding="utf-8").splitlines()))
    assert {"wallet", "other", "fees", "received"} <= {
        each["account"] for each in booked
    }
    for asset in {each["asset"] for each in booked}:
        own = [each for each in booked if each["asset"] == asset]
        debit, credit = (
            sum(Decimal(e[side]) for e in own) for side in ("debit", "credit")
        )
        assert debit == credit > 0
    assert "transfer-without-refund" in text
    assert not {"src", "href", "onload"} & set(_attributes(text))
    assert "<script" not in text


def test_a_day_as_a_bank_statement(run: Run, shop: Shop, tmp_path: Path) -> None:
    """Once its last block is final; before that there is a report, and no file."""
    path = tmp_path / "day.xml"
    tip = shop.dev.rpc("eth_getBlockByNumber", "latest", False)
    day = datetime.fromtimestamp(int(tip["timestamp"], 16), UTC).date()
    period = ("--from", str(day), "--to", str(day + timedelta(days=1)))
    wanted = ("--camt053", str(path), "--currency", "TUSD=USD")

    early = run("reconcile", *period, *wanted)
    shop.dev.rpc("evm_increaseTime", 86_400)
    shop.dev.rpc("anvil_mine", hex(5))
    finished = run("reconcile", *period, *wanted)

    assert early.status == 2
    assert "2 refunds were compared" in early.out
    assert "is not final: wait" in early.err
    assert finished.status == 0, finished.err
    assert path.read_text(encoding="utf-8").count("<Cd>refunds</Cd>") == 2


class _Attributes(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names += [name for name, _ in attrs]


def _attributes(text: str) -> Iterator[str]:
    parser = _Attributes()
    parser.feed(text)
    yield from parser.names


def test_the_report_before_has_the_opening_balances(
    run: Run, shop: Shop, fault_proxy: FakeNode, tmp_path: Path
) -> None:
    """With --previous, nodes need no old states."""
    report = tmp_path / "before.json"
    report.write_text(_reconcile(run).out, encoding="utf-8")

    finished = _reconcile(run, "--previous", str(report))
    report.write_text("[]", encoding="utf-8")
    refused = _reconcile(run, "--previous", str(report))

    assert finished.status == 0
    assert refused.status == 2
    assert "--previous is not a report" in refused.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--from", "yesterday", "--network", "moon"), "--network moon is not in"),
        (("--from", "2026-01-02", "--to", "2026-01-01"), "--to must be later"),
        (("--from", "never"), "is not a date"),
        ((*PERIOD, "--camt053=x.xml"), "--camt053 and --currency need each other"),
        ((*PERIOD, "--currency=TUSD=USD"), "--camt053 and --currency need each"),
        ((*PERIOD, "--camt053=x.xml", "--currency=TUSD=usd"), "must be TOKEN=CODE"),
        ((*PERIOD, "--camt053=x.xml", "--currency=TUSD=USD"), "needs one day"),
    ],
)
def test_bad_arguments(
    run: Run, shop: Shop, arguments: tuple[str, ...], problem: str
) -> None:
    """Status 2; nothing was compared."""
    finished = run("reconcile", *arguments)

    assert finished.status == 2
    assert problem in finished.err


def test_export(run: Run, shop: Shop, tmp_path: Path) -> None:
    """One line per transaction, with its fee in coin and the time of its block."""
    refund = shop.paid(amount="1.25")
    shop.spend()
    path = tmp_path / "refunds.csv"

    finished = run("refund", "export", *PERIOD, "--csv", str(path))

    assert (finished.status, finished.out) == (0, f"wrote 4 transactions to {path}\n")
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [each["kind"] for each in rows] == ["refund", "refund", "refund", "other"]
    last = rows[2]
    assert last["refund_id"] == refund.id
    assert (last["amount"], last["paid"]) == ("1.250000", "yes")
    assert last["tx_hash"] == refund.tx_hash
    assert 0 < float(last["network_fee"]) < 1
    assert datetime.fromisoformat(last["block_time"]) <= datetime.now(UTC)


def test_an_export_that_fails_writes_no_file(
    run: Run, shop: Shop, networks: Callable[..., Path], tmp_path: Path
) -> None:
    networks("http://127.0.0.1:9")
    path = tmp_path / "refunds.csv"

    finished = run("refund", "export", *PERIOD, "--csv", str(path))

    assert finished.status == 2
    assert not path.exists()
    assert run("reconcile", *PERIOD, "--ledger", str(path)).status == 2
    assert not path.exists()


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", "2026-03-01T12:00:00+00:00"),
        ("today", "2026-03-01T00:00:00+00:00"),
        ("yesterday", "2026-02-28T00:00:00+00:00"),
        ("2026-01-31", "2026-01-31T00:00:00+00:00"),
        ("2026-01-31T06:00", "2026-01-31T06:00:00+00:00"),
        ("2026-01-31T06:00+02:00", "2026-01-31T04:00:00+00:00"),
        ("2026-01-31T06:00:05Z", "2026-01-31T06:00:05+00:00"),
        ("2026-02-30", None),
        ("20260131", None),
        ("2026-W05", None),
        ("tomorrow", None),
        ("", None),
    ],
)
def test_dates(text: str, expected: str | None) -> None:
    """Days and times are in UTC unless they have another zone."""
    moment = parse_moment(text, NOON)

    assert (moment and moment.isoformat()) == expected
