"""The key's region fails, and the service fails over to its replica (K18)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Call
from tests.crash.admin_client import Response
from tests.crash.conftest import Open
from tests.crash.dependencies import DeviceSignature, digest_of
from tests.crash.evidence import Evidence
from tests.crash.gateway_client import Gateway, Order
from tests.crash.journal import Journal
from tests.crash.laboratory import Laboratory, Size
from tests.crash.rotation_checks import SETTINGS


OTHER_REGION = "eu-west-1"

# Without retries, a late request is one that began late.
_NO_RETRIES = {"KMS_MAX_RETRIES": "0", "KMS_TIMEOUT_MS": "1500"}
_SIZE = Size(hosts=1, web_workers=2, workers=2)
_AT_ONCE = 6


def _request(gateway: Gateway, series: str) -> Mapping[Order, str]:
    """Request several refunds at once, which the service accepts; return their ids."""
    orders = [Order.numbered(series, number) for number in range(_AT_ONCE)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        refunds = dict(zip(orders, pool.map(gateway.pay, orders), strict=True))
    accepted = {order: refund for order, refund in refunds.items() if refund}
    assert accepted == refunds
    return accepted


def _watch(gateway: Gateway, refunds: Mapping[Order, str]) -> None:
    """Wait until all of *refunds* are final."""
    for order, refund in refunds.items():
        gateway.watch(order, refund)


def _digests_to_sign(calls: Sequence[Call], region: str) -> list[str]:
    return [
        digest_of(call.parameters)
        for call in calls
        if (call.operation, call.region) == ("Sign", region)
    ]


def _refusals(
    lab: Laboratory, kms: KMSEmulator, replica: str
) -> Iterator[tuple[str, Response]]:
    """Request failovers to a broken replica; yield the expected reason and response."""

    def fail_over(reason: str) -> tuple[str, Response]:
        # A busy machine may miss the deadline of the first request.
        responses = _tries(lab, replica)
        found = next(r for r in responses if r.document.get("reason") in {reason, None})
        return reason, found

    kms.set_state(replica, "Disabled")
    yield fail_over("key-unusable")
    kms.set_state(replica, "Enabled")
    for reason, fault in (
        ("backend-access-denied", faults.access_denied()),
        ("backend-unavailable", faults.hang()),
        ("signature-recovery", faults.other_key()),
    ):
        kms.faults.always("Sign", faults.only_in(OTHER_REGION, fault))
        yield fail_over(reason)
    kms.faults.clear()


def _tries(lab: Laboratory, replica: str) -> Iterator[Response]:
    """
    Request the failover again and again, for some seconds.

    For a second after a call without an answer, a process does not ask that region.
    """
    for _ in range(10):
        yield lab.admin_client().fail_over(replica)
        lab.sleep(0.3)


def _begun(evidence: Evidence, before: float) -> set[str]:
    """Return the digests whose intent was recorded *before* that time."""
    owners = {
        fields["refund_id"]: record.at
        for record in evidence.audit
        if (fields := record.fields)["event"] == "digest-sign-requested"
        and not fields["digest"]
    }
    return {
        record.fields["digest"]
        for record in evidence.audit
        if record.fields.get("digest")
        and min(record.at, owners.get(record.fields["refund_id"], record.at)) < before
    }


def _pids(evidence: Evidence, signed: Sequence[DeviceSignature]) -> set[int]:
    ids = {each.request_id for each in signed if not each.is_refused}
    return {
        record.fields["pid"]
        for record in evidence.audit
        if ids & {*record.fields.get("device_request_ids", ())}
    }


def _failed_over_at(evidence: Evidence) -> float:
    (done,) = (
        e for e in evidence.audit if e.fields["event"] == "key-failover-succeeded"
    )
    return done.at


def test_refunds_wait_for_the_failover(
    open_laboratory: Open, empty_postgresql_url: str
) -> None:
    """The replica is self-tested first, and then pays each refund once."""
    lab = open_laboratory(
        empty_postgresql_url, use_kms=True, size=_SIZE, settings=SETTINGS | _NO_RETRIES
    )
    key, kms = lab.device.key, lab.device.kms
    assert kms is not None
    here, replica = kms.region, kms.replicate(key.name, OTHER_REGION)
    with Journal(lab.home / "region.journal") as journal:
        gateway = Gateway(lab.port, lab.token_key, journal)
        _watch(gateway, _request(gateway, "before"))
        began = len(kms.journal)
        kms.down.add(here)
        waiting = _request(gateway, "meanwhile")
        asked = lab.wait(
            lambda: bool(_digests_to_sign(tuple(kms.journal)[began:], here)), 30
        )
        held = {row.key: row for row in lab.evidence().rows}
        reasons, refused = zip(*_refusals(lab, kms, replica), strict=True)
        moved = next((each for each in _tries(lab, replica) if each.is_done), None)
        assert moved is not None, lab.explain("the failover never succeeds")
        before = len(kms.journal)
        _watch(gateway, waiting)
        _watch(gateway, _request(gateway, "after"))

    evidence = lab.evidence()
    late = {*_digests_to_sign(tuple(kms.journal)[before:], here)}
    there = [e.request_id for e in tuple(kms.trail) if e.region == OTHER_REGION]
    signed = [each for each in lab.device.read_log() if each.request_id in there]
    kept = {key: row.nonce for key, row in held.items() if row.nonce is not None}
    assert [each.document["reason"] for each in refused] == list(reasons)
    assert {each.status for each in refused} == {HTTPStatus.SERVICE_UNAVAILABLE}
    assert max(each.at - each.began for each in refused) < 5
    assert moved.address == key.address.lower()
    assert asked, lab.explain("no process asked the old region while it was down")
    assert late - _begun(evidence, _failed_over_at(evidence)) == set(), lab.explain(
        late
    )
    assert {held[order.key].status for order in waiting} <= {"queued", "reserved"}
    assert {row.status for row in evidence.rows} == {"confirmed"}, lab.explain("wait")
    assert kept == {row.key: row.nonce for row in evidence.rows if row.key in kept}
    assert len(_pids(evidence, signed)) > 1, lab.explain("one process did it all")
    lab.assert_no_violations()
    assert replica not in json.dumps([each.document for each in refused])
