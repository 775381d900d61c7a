"""Audit records from before the events were renamed still count as evidence."""

from pathlib import Path

from api.extras.cloudtrail.reconciliation import reconcile
from signer.audit.checkpoints import Verifier
from signer.audit.export import records
from signer.audit.verify import verify
from tests.support.cloudtrail import sign_event
from tests.support.signings import at, outcome, trail_of


VECTORS = Path(__file__).resolve().parents[3] / "vectors"
LINES = (VECTORS / "audit_export_old_events.jsonl").read_bytes().splitlines(True)
PUBLIC_KEY = (VECTORS / "audit_export_old_events.pub.pem").read_bytes()


def test_an_old_export_verifies() -> None:
    """The hash chain and the checkpoint cover the old names, and still hold."""
    verdict = verify(LINES, Verifier(PUBLIC_KEY))

    assert verdict.is_good
    assert (verdict.records, verdict.signed) == (5, 5)


def test_old_records_reconcile_with_cloudtrail(tmp_path: Path) -> None:
    """
    Old requests and results match, and explain a lost reply and a crash (K15).

    ``rf_3`` was requested under the old name and finished after the upgrade.
    """
    known = [*records(LINES), outcome(21, "new-3", refund_id="rf_3")]
    signs = {"old-1": 1, "old-2": 11, "lost": 11, "new-3": 21, "intruder": 21}
    events = [sign_event(name, at(seconds)) for name, seconds in signs.items()]
    found = reconcile(known, trail_of(tmp_path, *events))

    assert found.matched == 3
    assert [each.event.request_id for each in found.explained] == ["lost"]
    assert [each.request_id for each in found.intruders] == ["intruder"]
    # A process that died before the upgrade may have had one digest signed.
    trail = trail_of(tmp_path, sign_event("crashed", at(60)))
    explained = reconcile(records(LINES), trail).explained
    assert [each.event.request_id for each in explained if each.reason == "crash"] == [
        "crashed"
    ]
