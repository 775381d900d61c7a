"""The rotations under load: what one test does with each backend."""

from collections import Counter
from itertools import pairwise

from tests.crash.evidence import Evidence
from tests.crash.journal import read_journal
from tests.crash.laboratory import Laboratory
from tests.crash.report import Tell
from tests.crash.rotating import (
    administrator,
    is_drained,
    reigns,
    rotate_around,
    sign_beside,
    strangers,
    usurpers,
    verified,
)


ROTATIONS = 20
PER_SECOND = 25.0
"""Refunds and, beside them, signatures: what two busy cores carry beside other tests.

The soak asks for twice as many of each, fifty, on a machine that is its own.
"""

SEALED_SECONDS = 1.0


def rotates_under_load(
    lab: Laboratory, tell: Tell, *, per_second: float = PER_SECOND, pause: float = 0.4
) -> None:
    """Rotate twenty times under load, *tell* the figures, and judge all of it."""
    admin = administrator(lab)
    signatures = sign_beside(lab, per_second)
    begun = lab.wait((lab.home / "signatures").exists, 30)
    assert begun, lab.explain("see signatures.log")
    driver = lab.drive("rotation", per_second=per_second, concurrency=24)
    lab.sleep(2)

    late = rotate_around(lab, admin, ROTATIONS, pause)

    assert signatures.process.stdin
    signatures.process.stdin.close()
    settled = lab.settle(driver)
    assert signatures.process.wait(10) == 0, lab.explain("see signatures.log")
    drained = lab.wait(lambda: is_drained(lab), 30)
    evidence = lab.evidence()
    figures = _figures(lab, evidence) | {
        "settled after": settled,
        "rotation, most": max(a.at - a.began for a in admin.answers),
        "sealed late, median": sorted(late)[len(late) // 2],
        "sealed late, most": max(late),
    }
    tell(figures)

    assert drained, lab.explain(evidence.keys)
    assert lab.violations() == [], lab.explain("see the list")
    ruled = reigns(lab.key.address, admin.answers)
    usurped = [*usurpers(evidence, ruled)]
    assert usurped == [], lab.explain(usurped)
    strange = [*strangers(lab, evidence)]
    assert strange == [], lab.explain(strange)
    assert all(entry["event"] == "signed" for entry in _signatures(lab)), figures
    assert _troubles(lab) == Counter(), lab.explain("somebody was not served at once")
    assert verified(lab).is_good, lab.explain(verified(lab))
    assert _rotated_by(evidence) > 1, "one process did it all"


def _signatures(lab: Laboratory) -> list[dict[str, object]]:
    return list(read_journal(lab.home / "signatures"))


def _troubles(lab: Laboratory) -> Counter[str]:
    """Count what the gateway was answered instead of 201."""
    return Counter(
        str(entry.get("http") or entry.get("error"))
        for entry in lab.journal()
        if entry["event"] == "failed"
        or (entry["event"] == "answered" and entry["http"] != 201)
    )


def _rotated_by(evidence: Evidence) -> int:
    """Count the processes that rotated."""
    return len(
        {
            record.said["pid"]
            for record in evidence.audit
            if record.said["event"].startswith("key-rotate-")
        }
    )


def _figures(lab: Laboratory, evidence: Evidence) -> dict[str, float]:
    asked = [e for e in lab.journal() if e["event"] == "answered"]
    signed = [entry["at"] for entry in read_journal(lab.home / "signatures")]
    waits = sorted(e["at"] - e["began"] for e in asked)
    return {
        "refunds": len(evidence.rows),
        "refunds per second": _rate([e["at"] for e in asked]),
        "refund, median": waits[len(waits) // 2],
        "refund, most": waits[-1],
        "signatures": len(signed),
        "signatures per second": _rate(signed),
        "longest pause between answers": max(
            (b - a for a, b in pairwise(sorted(e["at"] for e in asked))), default=0.0
        ),
    }


def _rate(times: list[float]) -> float:
    return (len(times) - 1) / (max(times) - min(times))
