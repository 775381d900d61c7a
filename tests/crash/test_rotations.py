"""Keys are rotated while refunds and signatures are requested (O5)."""

from collections import Counter

import pytest

from tests.crash.conftest import Open, Stack
from tests.crash.gateway_process import Load
from tests.crash.journal import read_journal
from tests.crash.laboratory import Laboratory
from tests.crash.rotation_checks import (
    SETTINGS,
    assert_verified,
    is_drained,
    rotate,
    unmatched_requests,
    wrong_keys,
)


@pytest.mark.parametrize(
    ("rotations", "per_second"),
    [(10, 10.0), pytest.param(20, 50.0, marks=pytest.mark.soak)],
)
def test_no_request_fails_during_rotations(
    open_laboratory: Open,
    stack: Stack,
    rotations: int,
    per_second: float,
) -> None:
    """Four workers of two hosts use the new key after each rotation."""
    lab = open_laboratory(
        stack.database_url, use_kms=stack.use_kms, spares=3, settings=SETTINGS
    )
    admin = lab.admin_client()
    signatures = lab.home / "signatures"
    signing = lab.start_signing(per_second, signatures)
    assert lab.wait(signatures.exists, 30), lab.explain("see signing.log")
    gateway = lab.start_gateway(Load("rotation", per_second=per_second, concurrency=24))
    assert lab.wait(lambda: len(lab.journal()) > 20, 30), lab.explain("no requests")

    rotate(lab, admin, rotations, pause=0.4)

    lab.settle(gateway)
    signing.process.join(10)
    assert signing.process.exitcode == 0, lab.explain("see signing.log")
    drained = lab.wait(lambda: is_drained(lab), 30)
    evidence, signed = lab.evidence(), list(read_journal(signatures))

    assert drained, lab.explain(evidence.keys)
    lab.assert_no_violations()
    wrong = [
        *wrong_keys(lab, evidence, admin.responses),
        *unmatched_requests(lab, evidence),
    ]
    assert wrong == [], lab.explain(wrong)
    others = [entry for entry in signed if entry["event"] != "signed"]
    assert others == [], lab.explain(others)
    assert _failures(lab) == Counter(), lab.explain("a request was not served at once")
    assert_verified(lab)
    pids = {
        record.fields["pid"]
        for record in evidence.audit
        if record.fields["event"].startswith("key-rotate-")
    }
    assert len(pids) > 1, "one process did all rotations"
    assert lab.device.read_log() or not stack.use_kms, "the device signed nothing"


def _failures(lab: Laboratory) -> Counter[str]:
    """Count the responses to the gateway other than 201."""
    return Counter(
        str(entry.get("http") or entry.get("error"))
        for entry in lab.journal()
        if entry["event"] == "failed"
        or (entry["event"] == "answered" and entry["http"] != 201)
    )
