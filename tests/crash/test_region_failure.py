"""K18: the key's region fails, and its replica goes on: one ledger, one owner."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Call
from tests.crash.administrator import Answer
from tests.crash.conftest import Open
from tests.crash.evidence import Evidence
from tests.crash.gateway import Gateway, Order, Tokens
from tests.crash.journal import Journal
from tests.crash.laboratory import Laboratory, Size
from tests.crash.rotating import SETTINGS, administrator
from tests.crash.surroundings import Signed, _digest


THERE = "eu-west-1"

# Asked once each time, so that what comes late began late.
_PATIENT = {"KMS_MAX_RETRIES": "0", "KMS_TIMEOUT_MS": "1500"}
_SIZE = Size(hosts=1, web_workers=2, workers=2)
_AT_ONCE = 6


class Customers:
    """A gateway with orders, several at a time, and what became of them."""

    def __init__(self, lab: Laboratory, journal: Journal) -> None:
        key = Path(lab.environ["JWT_SIGNING_KEY_FILE"]).read_text(encoding="utf-8")
        self._gateway = Gateway(lab.port, Tokens(key), journal)
        self._refunds: dict[Order, str] = {}

    def ask(self, series: str) -> list[Order]:
        """Ask for some refunds at once; all of them are accepted."""
        orders = [Order.numbered(series, number) for number in range(_AT_ONCE)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for order, refund in zip(
                orders, pool.map(self._gateway.pay, orders), strict=True
            ):
                assert refund is not None
                self._refunds[order] = refund
        return orders

    def watch(self, orders: Sequence[Order]) -> None:
        """Wait until each of *orders* is final."""
        for order in orders:
            self._gateway.watch(order, self._refunds[order])


def _signs(calls: Sequence[Call], region: str) -> list[str]:
    """Return the digests that were to be signed in *region*."""
    return [
        _digest(call.parameters)
        for call in calls
        if (call.operation, call.region) == ("Sign", region)
    ]


def _refusals(
    lab: Laboratory, kms: KMSEmulator, replica: str
) -> Iterator[tuple[str, Answer]]:
    """Ask for a relocation while the replica is ill; yield why it must be refused."""
    admin = administrator(lab)

    def answer(reason: str) -> tuple[str, Answer]:
        # A busy machine may be too late for the first one's deadline.
        answers = (admin.relocate(replica) for _ in range(5))
        told = next(a for a in answers if a.document.get("reason") in {reason, None})
        return reason, told

    kms.set_state(replica, "Disabled")
    yield answer("key-unusable")
    kms.set_state(replica, "Enabled")
    for reason, fault in (
        ("backend-access-denied", faults.access_denied()),
        ("backend-unavailable", faults.hang()),
        ("signature-recovery", faults.other_key()),
    ):
        kms.faults.always("Sign", faults.only_in(THERE, fault))
        yield answer(reason)
    kms.faults.clear()


def _begun(evidence: Evidence, before: float) -> set[str]:
    """Return the digests of which a signature was announced *before*."""
    owners = {
        said["refund_id"]: record.at
        for record in evidence.audit
        if (said := record.said)["event"] == "digest-sign-requested"
        and not said["digest"]
    }
    return {
        record.said["digest"]
        for record in evidence.audit
        if record.said.get("digest")
        and min(record.at, owners.get(record.said["refund_id"], record.at)) < before
    }


def _pids(evidence: Evidence, signed: Sequence[Signed]) -> set[int]:
    ids = {each.request_id for each in signed if not each.is_refused}
    return {
        record.said["pid"]
        for record in evidence.audit
        if ids & {*record.said.get("device_request_ids", ())}
    }


def _relocated_at(evidence: Evidence) -> float:
    (done,) = (e for e in evidence.audit if e.said["event"] == "key-failover-succeeded")
    return done.at


def test_a_region_that_fails(open_laboratory: Open, empty_postgresql_url: str) -> None:
    """Refunds wait while it is down; its replica proves itself, and pays them once."""
    lab = open_laboratory(
        empty_postgresql_url, use_kms=True, size=_SIZE, settings=SETTINGS | _PATIENT
    )
    kms = lab.key.kms
    assert kms is not None
    here, replica = kms.region, kms.replicate(lab.key.name, THERE)
    with Journal(lab.home / "region.journal") as journal:
        customers = Customers(lab, journal)
        customers.watch(customers.ask("before"))
        kms.down.add(here)
        waiting = customers.ask("meanwhile")
        lab.sleep(1)
        held = {row.key: row for row in lab.evidence().rows}
        reasons, refused = zip(*_refusals(lab, kms, replica), strict=True)
        unmoved = _signs(tuple(kms.journal), here)
        moved = administrator(lab).relocate(replica)
        behind = len(kms.journal)
        customers.watch(waiting)
        customers.watch(customers.ask("after"))

    evidence = lab.evidence()
    late = {*_signs(tuple(kms.journal)[behind:], here)}
    there = [e.request_id for e in tuple(kms.trail) if e.region == THERE]
    signed = [each for each in lab.key.log() if each.request_id in there]
    kept = {key: row.nonce for key, row in held.items() if row.nonce is not None}
    assert [answer.document["reason"] for answer in refused] == list(reasons)
    assert {answer.status for answer in refused} == {HTTPStatus.SERVICE_UNAVAILABLE}
    assert max(answer.at - answer.began for answer in refused) < 5
    assert moved.is_done, lab.explain(moved)
    assert moved.address == lab.key.address.lower()
    assert unmoved, lab.explain("nobody asked the old region while it was down")
    assert late - _begun(evidence, _relocated_at(evidence)) == set(), lab.explain(late)
    assert {held[order.key].status for order in waiting} <= {"queued", "reserved"}
    assert {row.status for row in evidence.rows} == {"confirmed"}, lab.explain("wait")
    assert kept == {row.key: row.nonce for row in evidence.rows if row.key in kept}
    assert len(_pids(evidence, signed)) > 1, lab.explain("one process did it all")
    assert lab.violations() == [], lab.explain("see the list")
    assert replica not in json.dumps([answer.document for answer in refused])
