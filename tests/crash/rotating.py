"""What must be true of keys, whenever they were rotated: by the clock, from outside."""

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from signer.audit.checkpoints import CheckpointKey, Verifier
from signer.audit.export import export
from signer.audit.verify import Verdict, verify
from tests.crash.administrator import Administrator, Answer
from tests.crash.evidence import Evidence, Recorded
from tests.crash.laboratory import Laboratory
from tests.crash.read_audit import read_lateness
from tests.crash.read_store import reading
from tests.crash.supervisor import Program


SETTINGS = {"RATE_LIMIT_ADMIN": "10000"}
"""Whoever asks again and again after a crash is no attacker."""


@dataclass(frozen=True, slots=True)
class Reign:
    """
    An address, and from when until when it may have been the active one.

    It was for certain between ``settled`` and ``ends``; before, the rotation to it was
    under way, and it may have been, or the one before.
    """

    address: str
    begins: float
    settled: float


def administrator(lab: Laboratory) -> Administrator:
    """Return an administrator of the laboratory's service."""
    return Administrator(lab.port, Path(lab.environ["JWT_SIGNING_KEY_FILE"]))


def sign_beside(lab: Laboratory, per_second: float) -> Program:
    """Start a process that signs digests with the active key."""
    options = [
        f"--per-second={per_second}",
        f"--journal={lab.home / 'signatures'}",
    ]
    return lab.supervisor.start(
        Program(
            "signatures",
            ["tests.crash.signatures", *options],
            lab.environ,
            kept=False,
        )
    )


def rotate_around(
    lab: Laboratory, admin: Administrator, count: int, pause: float
) -> list[float]:
    """
    Rotate *count* times, from key to key; return how late the seals were meanwhile.

    Each is a look at the oldest record without a seal, in seconds, four a second.
    """
    names = [spare.name for spare in lab.key.spares] + [lab.key.name]
    late = list[float]()
    with reading(lab.database_url) as store:
        for name in itertools.islice(itertools.cycle(names), count):
            answer = admin.rotate(name)
            assert answer.is_done, lab.explain(answer)
            until = time.monotonic() + pause
            while time.monotonic() < until:
                late.append(read_lateness(store))
                lab.sleep(0.25)
    return late


def reigns(first: str, answers: Sequence[Answer]) -> list[Reign]:
    """Return who reigned when, by what the administrator was answered."""
    found = [Reign(first.lower(), 0.0, 0.0)]
    began: float | None = None
    for answer in answers:
        # Whoever was not answered may have been served.
        began = answer.began if began is None else began
        if answer.is_done:
            found.append(Reign(answer.address, began, answer.at))
            began = None
    return found


def usurpers(evidence: Evidence, reigns: Sequence[Reign]) -> Iterator[str]:
    """
    Yield a sentence for each intent of a key that was not the active one.

    What is told by a digest and belongs to a refund finishes what began before (O4).
    """
    for record in evidence.audit:
        if _chooses_a_key(record) and record.said["address"].lower() not in set(
            _possible(record.at, reigns)
        ):
            yield f"{record.id} is of {record.said['address']}, at {record.at}"


def _chooses_a_key(record: Recorded) -> bool:
    said = record.said
    if said["event"] != "digest-sign-requested":
        return False
    is_reservation = said["refund_id"] is not None and said["digest"] is None
    return is_reservation or said["operation"] == "message-signing"


def _possible(at: float, reigns: Sequence[Reign]) -> Iterator[str]:
    begun = [reign for reign in reigns if reign.begins <= at]
    yield begun[-1].address
    if at < begun[-1].settled and len(begun) > 1:
        yield begun[-2].address


def strangers(lab: Laboratory, evidence: Evidence) -> Iterator[str]:
    """
    Yield what device and audit do not agree on: by request id, both ways, and by key.

    A request whose answer was lost has an id that only the device knows; the outcome
    then counts one more attempt than it has ids.
    """
    known = {lab.key.name: lab.key.address}
    known |= {spare.name: spare.address for spare in lab.key.spares}
    told = dict[str, str]()
    lost = Counter[str]()
    for record in evidence.audit:
        ids = record.said.get("device_request_ids", ())
        told |= dict.fromkeys(ids, str(record.said.get("address")))
        if record.said["event"] in ("digest-sign-succeeded", "digest-sign-refused"):
            lost[record.said["digest"]] += record.said["attempts"] - len(ids)
    for signed in lab.key.log():
        by_audit = told.pop(signed.request_id, None)
        if signed.is_refused:
            continue
        lost[signed.digest] -= by_audit is None
        if by_audit not in {None, known[signed.key]} or lost[signed.digest] < 0:
            yield f"{signed.request_id} is {known[signed.key]}'s, not {by_audit}'s"
    for request_id in told:
        yield f"{request_id} is of the audit alone"


def verified(lab: Laboratory) -> Verdict:
    """Return what the product's own verifier says of an export of the whole chain."""
    from backends.sql import SQLStore  # noqa: PLC0415  After all forks.

    key = CheckpointKey.load(lab.home / "hotwallet" / "audit.pem")
    with closing(SQLStore(lab.database_url)) as store:
        lines = export(store, checkpoint_origin(lab))
        return verify(lines, Verifier(key.public_pem()))


def checkpoint_origin(lab: Laboratory) -> str:
    """Return in whose name the checkpoints were made: the first line of each."""
    with reading(lab.database_url) as store:
        (row,) = store.execute("SELECT note FROM audit_checkpoints LIMIT 1")
    return str(row["note"].splitlines()[0])


def is_drained(lab: Laboratory) -> bool:
    """Say whether one key is active, and all others that served are retired."""
    states = sorted(key.state for key in lab.evidence().keys if key.epoch)
    return states == ["active"] + ["retired"] * (len(states) - 1)
