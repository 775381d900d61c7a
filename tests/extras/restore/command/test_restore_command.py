"""``hotwallet restore``, on anvil."""

import gzip
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from api.extras.audit_shipping.places import open_place
from api.extras.audit_shipping.shipper import Shipper
from signer.alerts import Alerts
from signer.audit.checkpointer import CheckpointSettings
from signer.model.audit_record import Record
from signer.model.refund import Status
from signer.model.wallet import Pause
from signer.row_macs import RowMACs
from tests.api.commands import Finished, Run
from tests.fixtures.ledger import refund_page
from tests.support.audit import KEY, ORIGIN
from tests.support.ledgers import copy_ledger, open_ledger, seal
from tests.support.refunds import World
from tests.support.restores import keep_log, requested, write_log


NOTHING = "the ledger has everything: nothing to do\n"


@dataclass(frozen=True)
class Lost:
    """
    A ledger that was restored, with the log of what it has lost.

    It has a refund that was paid with nonce 0, and lacks one with nonce 1, and one that
    is queued.
    """

    run: Run
    url: str
    log: Path
    address: str
    records: Sequence[Record]
    key: Path

    def restore(self, *arguments: str) -> Finished:
        return self.run("restore", "--log", str(self.log), *arguments)

    def mark(self, nonce: int) -> str:
        """Return the argument that states the mark of the only wallet."""
        return f"--high-water=local:{self.address}={nonce}"

    def content(self) -> object:
        with closing(open_ledger(self.url)) as store:
            refunds = refund_page(store, "gateway").refunds
            return refunds, store.wallets(), store.stops(), store.head()


@pytest.fixture
def lost(
    run: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Lost:
    """Return a restored ledger, which the commands open."""
    log = keep_log(world)
    world.step(requested(world, "paid"), times=3)
    copy = copy_ledger(tmp_path / "hotwallet.db", tmp_path / "copy.db")
    world.step(requested(world, "lost"), times=3)
    requested(world, "queued")
    url = f"sqlite:///{copy}"
    monkeypatch.setenv("DATABASE_URL", url)
    return Lost(
        run,
        url,
        write_log(tmp_path / "host.log", log),
        world.signer.address,
        log,
        tmp_path / "tests-mac.key",
    )


def test_a_restore(lost: Lost) -> None:
    """Look, do it, and do it again: the second time changes nothing."""
    before = lost.content()
    looked = lost.restore("--dry-run")
    same = lost.content()
    done = lost.restore("--yes")
    after = lost.content()
    again, looked_again = lost.restore("--yes"), lost.restore("--dry-run")
    with closing(open_ledger(lost.url)) as store:
        refunds = {
            each.reference: each for each in refund_page(store, "gateway").refunds
        }
        (wallet,) = store.wallets()

    mark = (
        f"local {lost.address}: next nonce 1, the chain's 2, high-water mark 2;"
        " no-ops: 0\n"
    )
    changes = "refunds that are created again: 2\nrefunds that get their nonces back: 1"
    assert (looked.status, done.status) == (0, 0)
    assert mark in looked.out
    assert changes in looked.out
    assert looked.out in done.out
    assert "done: start a worker" in done.out
    assert '"event":"ledger-restore-requested"' in done.err
    assert '"event":"ledger-restore-succeeded"' in done.err
    assert before == same != after == lost.content()
    for each in (again, looked_again):
        assert (each.status, each.out.endswith(NOTHING)) == (0, True)
    assert (refunds["lost"].status, refunds["lost"].nonce) == (Status.RESERVED, 1)
    assert refunds["queued"].status is Status.QUEUED
    assert (wallet.paused_by, wallet.high_water) == (Pause.RESTORED, 2)


@pytest.fixture
def place(lost: Lost, world: World, tmp_path: Path) -> Path:
    """What the lost ledger has shipped, up to its end."""
    folder = tmp_path / "place"
    folder.mkdir()
    seal(world.store)
    shipper = Shipper(
        world.store,
        open_place(folder.as_uri(), None, None),
        CheckpointSettings(KEY, ORIGIN),
        Alerts(),
        world.clock,
        sealed_at=lambda: None,
    )
    shipper.ship()
    return folder


def test_the_shipped_log_is_read_by_itself(
    lost: Lost, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is configured, or that is named; a hole in it is a problem."""
    by_log = lost.restore("--dry-run").out.splitlines()[1:]
    named = lost.run("restore", "--log", place.as_uri(), "--dry-run")
    monkeypatch.setenv("AUDIT_SHIP_TO", place.as_uri())
    configured = lost.run("restore", "--dry-run")
    (segment,) = (place / "records").iterdir()
    content = segment.read_bytes()
    header, _, *others = content.splitlines(keepends=True)
    segment.write_bytes(b"".join([header, *others]))
    holed = lost.run("restore", "--dry-run")
    segment.write_bytes(content)
    line = b'{"hash":"%s","raw":"AA==","sequence":%d}\n' % (b"0" * 64, 10**15)
    segment.with_name(f"{len(others) + 2:020}.jsonl").write_bytes(line)
    planted = lost.run("restore", "--dry-run")

    assert named.status == configured.status == 0
    assert named.out.splitlines()[1:] == configured.out.splitlines()[1:] == by_log
    for each in (holed, planted):
        assert each.status == 1
        assert f"{place.as_uri()} has a gap" in each.out


def test_json(lost: Lost) -> None:
    """One document, without prose; ``done`` is false for a dry run."""
    document = lost.restore("--dry-run", "--json").json
    (host,) = document["log"].pop("hosts").values()
    records = len(lost.records)

    assert document["log"] == {
        "lines": records,
        "records": records,
        "authentic": records,
        "redacted": 0,
        "malformed": 0,
        "without_mac": 0,
        "unknown_key": 0,
        "forged": 0,
        "damaged": [],
    }
    assert host["lines"] == records
    assert host["first"] <= host["last"]
    assert document["wallets"] == [
        {
            "network": "local",
            "address": lost.address,
            "next_nonce": 1,
            "chain_next_nonce": 2,
            "high_water": 2,
            "stated": False,
            "fillers": [],
        }
    ]
    created = [
        {key: each[key] for key in ("created", "sender", "nonce", "cancelled")}
        for each in sorted(document["refunds"], key=lambda r: r["nonce"] is None)
    ]
    assert created == [
        {"created": True, "sender": lost.address, "nonce": 1, "cancelled": False},
        {"created": True, "sender": None, "nonce": None, "cancelled": False},
    ]
    assert (document["done"], document["problems"]) == (False, [])
    assert (document["key_changes"], document["stops"]) == ([], [])


def test_marks_without_a_log(lost: Lost) -> None:
    """Each nonce up to the mark gets a no-op, unless the chain has used it."""
    missing = lost.run("restore", lost.mark(1), "--yes")
    stated = lost.run("restore", lost.mark(4), "--dry-run")
    done = lost.run("restore", lost.mark(4), "--yes", "--json").json

    assert (missing.status, stated.status) == (1, 0)
    assert f"PROBLEM: local {lost.address}: its high-water mark must be 2 or more" in (
        missing.out
    )
    assert "high-water mark 4 (stated); no-ops: 2\n" in stated.out
    assert done["done"] is True
    assert [each["fillers"] for each in done["wallets"]] == [[2, 3]]


def test_nothing_given(lost: Lost) -> None:
    """It does not guess that nothing was lost."""
    finished = lost.run("restore", "--dry-run")

    assert (finished.status, finished.out) == (2, "")
    assert "--log" in finished.err
    assert "--high-water" in finished.err


MALFORMED = [
    "local",
    "local:{}",
    "local:{}=",
    "local:{}=-1",
    "local:{}=+1",
    "local:{}=1.0",
    "local:{}=1_0",
    "local:{}=\N{FULLWIDTH DIGIT ONE}",
    "local:{}=1000000000000000",
    ":{}=1",
    "{}=1",
    "=1",
    "local:=1",
    "local:0x12=1",
    "local:{} =1",
]


def test_malformed_marks(lost: Lost) -> None:
    for mark in MALFORMED:
        given = mark.format(lost.address)
        finished = lost.run("restore", "--high-water", given, "--yes")

        assert (finished.status, finished.out) == (1, ""), mark
        assert "error: invalid-input: --high-water must " in finished.err, mark


def test_marks_of_something_else(lost: Lost) -> None:
    """A mistyped name or address is no statement about the wallet."""
    other = f"0x{'ab' * 20}"
    before = lost.content()
    network = lost.run("restore", f"--high-water=mainnet:{lost.address}=2", "--yes")
    address = lost.restore(f"--high-water=local:{other}=2", "--yes")
    twice = lost.run("restore", lost.mark(2), lost.mark(3), "--yes")

    assert "invalid-input: --high-water there is no network mainnet" in network.err
    assert (address.status, "the ring has no such key" in address.out) == (1, True)
    assert "invalid-input: --high-water has two values for local:0x" in twice.err
    assert [network.status, twice.status] == [1, 1]
    assert before == lost.content()


def test_a_log_that_cannot_be_read(lost: Lost, tmp_path: Path) -> None:
    """A missing file, a directory, and a copy that ends too early."""
    packed = tmp_path / "host.log.gz"
    packed.write_bytes(gzip.compress(lost.log.read_bytes())[:-20])
    before = lost.content()
    missing = lost.run("restore", "--log", str(tmp_path / "none"), "--yes")
    folder = lost.run("restore", "--log", str(tmp_path), "--yes")
    damaged = lost.run("restore", "--log", str(packed), "--yes")
    stated = lost.run("restore", "--log", str(packed), lost.mark(2), "--dry-run")

    assert [missing.status, folder.status, damaged.status] == [2, 2, 1]
    assert f"PROBLEM: {packed} is damaged: copy it again" in damaged.out
    assert f"--high-water local:{lost.address}=NONCE" in damaged.out
    assert damaged.out.endswith("nothing was changed\n")
    assert (stated.status, "PROBLEM" in stated.out) == (0, False)
    assert before == lost.content()


def test_another_mac_key(lost: Lost) -> None:
    """Without the key of ledger and log, the command does not go on."""
    old = lost.key.read_text()
    lost.key.write_bytes(RowMACs.generate())
    before = lost.content()
    other = lost.restore("--yes")
    lost.key.write_text(old)
    right = lost.restore("--dry-run")

    assert other.status == 1
    assert "row-not-authentic" in other.err
    assert before == lost.content()
    assert (right.status, "do not count" in right.out) == (0, False)


def test_changed_lines(lost: Lost) -> None:
    """A nonce that another program changed may be missing: it must be stated."""
    lines = lost.log.read_text()
    assert '"nonce":1,' in lines
    lost.log.write_text(lines.replace('"nonce":1,', '"nonce":0,'))
    before = lost.content()
    refused = lost.restore("--yes")
    stated = lost.restore(lost.mark(2), "--dry-run")

    assert refused.status == 1
    assert "have a wrong MAC: another program changed or wrote them" in refused.out
    assert "whose lines do not count" in refused.out
    assert before == lost.content()
    assert (stated.status, "PROBLEM" in stated.out) == (0, False)


def test_the_same_lines_twice(lost: Lost, tmp_path: Path) -> None:
    """Logs may overlap, and a good copy of a bad line is enough."""
    bad = tmp_path / "bad.log"
    bad.write_text(lost.log.read_text().replace('"nonce":1,', '"nonce":0,'))
    finished = lost.restore("--log", str(bad), "--log", str(lost.log), "--dry-run")

    assert (finished.status, "PROBLEM" in finished.out) == (0, False)
    assert "refunds that are created again: 2\n" in finished.out


def test_asks_before_it_changes_something(lost: Lost) -> None:
    before = lost.content()
    finished = lost.restore()

    assert (finished.status, finished.out) == (2, "")
    assert "Add --yes to confirm, or --dry-run" in finished.err
    assert before == lost.content()
