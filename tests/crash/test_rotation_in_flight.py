"""Work that begins before a rotation and ends after it (O4, O8)."""

from concurrent.futures import ThreadPoolExecutor

from tests.crash.conftest import Open
from tests.crash.evidence import Evidence
from tests.crash.fault_plan import Fault, Kind
from tests.crash.gateway_client import Gateway, Order
from tests.crash.gateway_process import Load
from tests.crash.journal import Journal
from tests.crash.laboratory import Laboratory
from tests.crash.rotation_checks import SETTINGS, unmatched_requests


_NO_RETRIES = {"KMS_MAX_RETRIES": "0"}  # The late response is to the first request.
_SLOW = Fault(Kind.DELAY, seconds=4.0)  # Longer than a rotation on a busy machine.


def _count_self_tests(lab: Laboratory) -> int:
    """Return how many signatures the processes requested to test the key at start."""
    used = -1
    while used < len(lab.device.used):
        used = len(lab.device.used)
        lab.sleep(2)
    return used


def _senders(evidence: Evidence) -> dict[str, str | None]:
    return {row.key: row.sender for row in evidence.rows}


def test_a_signature_that_arrives_after_a_rotation_is_used(
    open_laboratory: Open, empty_postgresql_url: str
) -> None:
    """The refund keeps the old key; the next one uses the new key."""
    lab = open_laboratory(
        empty_postgresql_url, use_kms=True, spares=1, settings=SETTINGS | _NO_RETRIES
    )
    (spare,) = lab.device.spares
    order, after = Order.numbered("in-flight", 0), Order.numbered("in-flight", 1)
    with (
        Journal(lab.home / "in-flight.journal") as journal,
        ThreadPoolExecutor(1) as pool,
    ):
        gateway = Gateway(lab.port, lab.token_key, journal)
        used = _count_self_tests(lab)
        lab.device.plan.script("Sign", _SLOW)
        paying = pool.submit(gateway.pay, order)
        asked = lab.wait(lambda: len(lab.device.used) > used, 5)
        rotated = lab.admin_client().rotate(spare.name)
        rotated_first = not paying.done()
        for each, refund_id in ((order, paying.result()), (after, gateway.pay(after))):
            assert refund_id is not None, lab.explain("not accepted")
            gateway.watch(each, refund_id)

    evidence = lab.evidence()
    assert asked, lab.explain("the device was not asked")
    assert rotated.is_done, lab.explain(rotated)
    assert rotated_first, lab.explain("the device was faster than the rotation")
    assert _senders(evidence) == {
        order.key: lab.device.key.address.lower(),
        after.key: spare.address.lower(),
    }
    lab.assert_no_violations()
    unmatched = [*unmatched_requests(lab, evidence)]
    assert unmatched == [], lab.explain(unmatched)


def test_a_former_key_replaces_its_own_stuck_transaction(
    open_laboratory: Open, empty_sqlite_url: str
) -> None:
    """The replacement is signed by the key that signed the transaction."""
    lab = open_laboratory(empty_sqlite_url, spares=1, settings=SETTINGS)
    lab.chain.rpc("evm_setIntervalMining", 0)  # Transactions stay in the pool.
    order = Order.numbered("stuck", 0)
    with Journal(lab.home / "stuck.journal") as journal:
        gateway = Gateway(lab.port, lab.token_key, journal)
        refund_id = gateway.pay(order)
        sent = lab.wait(lambda: len(lab.evidence().signed) > 0, 30)
        rotated = lab.admin_client().rotate(lab.device.spares[0].name)
        replaced = lab.wait(lambda: len(lab.evidence().signed) > 1, 30)
        lab.chain.rpc("evm_setIntervalMining", 1)
        assert refund_id is not None
        gateway.watch(order, refund_id)

    evidence = lab.evidence()
    assert sent, lab.explain("nothing was sent")
    assert rotated.is_done, lab.explain(rotated)
    assert replaced, lab.explain("nothing was replaced")
    assert {s.sender for s in evidence.signed} == {lab.device.key.address.lower()}
    lab.assert_no_violations()


def test_a_compromised_key_begins_nothing_after_the_response(
    open_laboratory: Open, empty_postgresql_url: str
) -> None:
    """What it began before is paid once; both keys paid refunds."""
    lab = open_laboratory(
        empty_postgresql_url, use_kms=True, spares=1, settings=SETTINGS
    )
    (spare,) = lab.device.spares
    old, new = lab.device.key.address.lower(), spare.address.lower()

    def has_paid(address: str) -> bool:
        return address in _senders(lab.evidence()).values()

    gateway = lab.start_gateway(Load("compromised", concurrency=12))
    paid = lab.wait(lambda: has_paid(old), 30)

    response = lab.admin_client().rotate(
        spare.name, compromised=True, activeAddress=lab.device.key.address
    )

    assert response.is_done, lab.explain(response)
    paid &= lab.wait(lambda: has_paid(new), 30)
    lab.settle(gateway)
    evidence = lab.evidence()
    late = [
        record
        for record in evidence.audit
        if record.fields["event"] == "digest-sign-requested"
        and record.owner[1] == old
        and record.at > response.at
    ]
    states = {key.address: key.state for key in evidence.keys}
    assert paid, lab.explain("not both keys paid")
    assert late == [], lab.explain("the old key signed after its revocation")
    assert states[old] == "blocked"
    assert set(_senders(evidence).values()) == set(states)
    lab.assert_no_violations()
