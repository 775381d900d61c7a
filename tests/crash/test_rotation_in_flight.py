"""What began before a rotation, and ends after it (O4, O8)."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.crash.conftest import Open
from tests.crash.evidence import Evidence, Recorded
from tests.crash.faults import Fault, Kind
from tests.crash.gateway import Gateway, Order, Tokens
from tests.crash.journal import Journal
from tests.crash.laboratory import Laboratory
from tests.crash.rotating import SETTINGS, administrator, strangers


# Asked once and for all: the answer that comes after the swap is to the first question.
_PATIENT = {"KMS_MAX_RETRIES": "0"}
_SLOW = Fault(Kind.DELAY, seconds=4.0)  # Longer than a rotation on a busy machine.


def _gateway(lab: Laboratory, journal: Journal) -> Gateway:
    key = Path(lab.environ["JWT_SIGNING_KEY_FILE"]).read_text(encoding="utf-8")
    return Gateway(lab.port, Tokens(key), journal)


def _asked_to_begin(lab: Laboratory) -> int:
    """Wait until every process has proved the key; return how often it was asked."""
    asked = -1
    while asked < len(lab.key.used):
        asked = len(lab.key.used)
        lab.sleep(2)
    return asked


def _senders(evidence: Evidence) -> dict[str, str | None]:
    return {row.key: row.sender for row in evidence.rows}


def test_ends_on_the_key_that_it_began_with(
    open_laboratory: Open, empty_postgresql_url: str
) -> None:
    """A signature that the device makes after the swap is of the old key, and valid."""
    lab = open_laboratory(
        empty_postgresql_url, use_kms=True, spares=1, settings=SETTINGS | _PATIENT
    )
    order, after = Order.numbered("in-flight", 0), Order.numbered("in-flight", 1)
    with (
        Journal(lab.home / "in-flight.journal") as journal,
        ThreadPoolExecutor(1) as pool,
    ):
        gateway = _gateway(lab, journal)
        used = _asked_to_begin(lab)
        lab.key.plan.script("Sign", _SLOW)
        paying = pool.submit(gateway.pay, order)
        asked = lab.wait(lambda: len(lab.key.used) > used, 5)
        rotated = administrator(lab).rotate(lab.key.spares[0].name)
        swapped_first = not paying.done()
        for each, refund_id in ((order, paying.result()), (after, gateway.pay(after))):
            assert refund_id is not None, lab.explain(journal)
            gateway.watch(each, refund_id)

    evidence = lab.evidence()
    assert asked, lab.explain("the device was not asked")
    assert rotated.is_done, lab.explain(rotated)
    assert swapped_first, lab.explain("the device was faster than the rotation")
    assert _senders(evidence) == {
        order.key: lab.key.address.lower(),
        after.key: lab.key.spares[0].address.lower(),
    }
    assert lab.violations() == [], lab.explain("see the list")
    strange = [*strangers(lab, evidence)]
    assert strange == [], lab.explain(strange)


def test_replaces_with_the_key_that_it_began_with(
    open_laboratory: Open, empty_sqlite_url: str
) -> None:
    """A stuck transaction of a key that was rotated away is replaced by that key."""
    lab = open_laboratory(empty_sqlite_url, spares=1, settings=SETTINGS)
    lab.chain.rpc("evm_setIntervalMining", 0)  # What is sent now, waits.
    order = Order.numbered("stuck", 0)
    with Journal(lab.home / "stuck.journal") as journal:
        gateway = _gateway(lab, journal)
        refund_id = gateway.pay(order)
        rotated = administrator(lab).rotate(lab.key.spares[0].name)
        replaced = lab.wait(lambda: len(lab.evidence().signed) > 1, 30)
        lab.chain.rpc("evm_setIntervalMining", 1)
        assert refund_id is not None
        gateway.watch(order, refund_id)

    evidence = lab.evidence()
    assert rotated.is_done, lab.explain(rotated)
    assert replaced, lab.explain("nothing was replaced")
    assert {each.sender for each in evidence.signed} == {lab.key.address.lower()}
    assert lab.violations() == [], lab.explain("see the list")


def test_gives_a_compromised_key_up(
    open_laboratory: Open, empty_postgresql_url: str
) -> None:
    """After the answer the old key begins nothing, and what it began is paid once."""
    lab = open_laboratory(
        empty_postgresql_url, use_kms=True, spares=1, settings=SETTINGS
    )
    driver = lab.drive("compromised", concurrency=12)
    lab.sleep(5)

    answer = administrator(lab).rotate(lab.key.spares[0].name, compromised=True)

    assert answer.is_done, lab.explain(answer)
    lab.sleep(5)
    lab.settle(driver)
    evidence = lab.evidence()
    old = lab.key.address.lower()
    late = [
        record
        for record in evidence.audit
        if _signs(record, old) and record.at > answer.at
    ]
    states = {key.address: key.state for key in evidence.keys}
    assert late == [], lab.explain("the old key went on")
    assert states[old] == "blocked"
    assert set(_senders(evidence).values()) == set(states), "not both keys paid"
    assert lab.violations() == [], lab.explain("see the list")


def _signs(record: Recorded, address: str) -> bool:
    said = record.said
    is_intent = said["event"] == "digest-sign-requested"
    return is_intent and str(said["address"]).lower() == address
