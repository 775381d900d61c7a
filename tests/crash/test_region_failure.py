"""K18: the key's region fails, and its replica goes on: one ledger, one owner."""

import json
from collections.abc import Sequence
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
        _digest(call.asked)
        for call in calls
        if (call.operation, call.region) == ("Sign", region)
    ]


def _refusals(lab: Laboratory, kms: KMSEmulator, replica: str) -> list[Answer]:
    """Ask for a relocation while the replica is disabled, denied, and mute."""
    admin, answers = administrator(lab), list[Answer]()
    kms.set_state(replica, "Disabled")
    answers.append(admin.relocate(replica))
    kms.set_state(replica, "Enabled")
    for fault in (faults.access_denied(), faults.hang(), faults.other_key()):
        kms.faults.always("Sign", faults.only_in(THERE, fault))
        answers.append(admin.relocate(replica))
    kms.faults.clear()
    return answers


def _begun(evidence: Evidence, before: float) -> set[str]:
    """Return the digests of which a signature was announced *before*."""
    owners = {
        said["refund_id"]: record.at
        for record in evidence.audit
        if (said := record.said)["event"] == "signing-intent" and not said["digest"]
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
    (done,) = (e for e in evidence.audit if e.said["event"] == "key-relocated")
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
        refused = _refusals(lab, kms, replica)
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
    reasons = [answer.document.get("reason") for answer in refused]
    assert {answer.status for answer in refused} == {HTTPStatus.SERVICE_UNAVAILABLE}
    assert reasons == [
        "key-unusable",
        "backend-access-denied",
        "backend-unavailable",
        "signature-recovery",
    ]
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
