"""I6 and I8: nothing is signed that was not announced, and the chain of it holds."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import jcs  # type: ignore[import-untyped]  # It ships none.

from tests.crash.evidence import Evidence, Recorded


_GENESIS = hashlib.sha256(b"hotwallet audit chain 1: genesis").digest()
_LABEL = b"hotwallet audit chain 1: record"

_PATIENCE_MS = 5_000

Owner = tuple[str, str]
"""A refund, and the address whose nonce it has, in lower case."""


@dataclass(frozen=True, slots=True)
class Announcements:
    """
    What was announced to the audit, and since when, on the monotonic clock.

    An intent that rides in a reservation knows no digest yet, and is told by its
    ``Owner``; every other one is told by its digest.  ``outcomes`` are the owners of
    the digests that a record of an outcome names.
    """

    digests: Mapping[str, float]
    reserved: Mapping[Owner, float]
    outcomes: Mapping[str, Owner]

    @classmethod
    def of(cls, audit: tuple[Recorded, ...]) -> "Announcements":
        """Read the records."""
        digests: dict[str, float] = {}
        reserved: dict[Owner, float] = {}
        outcomes: dict[str, Owner] = {}
        for record in audit:
            said = record.said
            owner = (str(said.get("refund_id")), str(said.get("address")).lower())
            if said["event"] in ("digest-sign-succeeded", "digest-sign-refused"):
                outcomes[said["digest"]] = owner
            elif said["event"] == "digest-sign-requested" and said["digest"]:
                digests[said["digest"]] = min(
                    record.at, digests.get(said["digest"], record.at)
                )
            elif said["event"] == "digest-sign-requested":
                reserved[owner] = record.at
        return cls(digests, reserved, outcomes)


def _announced(evidence: Evidence) -> Iterator[str]:
    """I6: whatever was signed was announced: its intent is in the store."""
    known = Announcements.of(evidence.audit)
    owners = dict(known.outcomes)
    owners |= {s.digest: (s.refund_id, s.sender) for s in evidence.signed}
    made = owners.keys() | {s.digest for s in evidence.sent} | evidence.used.keys()
    made -= known.digests.keys()
    done = {owners[digest] for digest in made & owners.keys()}
    for digest in made & owners.keys():
        if owners[digest] not in known.reserved:
            yield f"the digest {digest} was signed without a word to the audit log"
    # Who died between the device and the store has left an intent, and no more.
    lost, unfinished = made - owners.keys(), known.reserved.keys() - done
    if len(lost) > len(unfinished):
        for digest in lost:
            yield f"the digest {digest} was signed without a word to the audit log"


def _announced_first(evidence: Evidence) -> Iterator[str]:
    """I6, by the clock: the intent is older than the question to the device."""
    known = Announcements.of(evidence.audit)
    for digest, asked_at in evidence.used.items():
        owner = known.outcomes.get(digest)
        since = known.digests.get(digest)
        if since is None and owner is not None:
            since = known.reserved.get(owner)
        if since is not None and since > asked_at:
            yield f"the digest {digest} was signed before it was announced"


def _reserved_with_intent(evidence: Evidence) -> Iterator[str]:
    """I6, by rows: whoever has a nonce has the intent that came with it."""
    known = Announcements.of(evidence.audit)
    for row in evidence.rows:
        if row.sender is not None and (row.id, row.sender) not in known.reserved:
            yield f"{row.id} has a nonce of {row.sender}, and no intent says so"


def chain_holds(evidence: Evidence) -> Iterator[str]:
    """I8: each record follows from the one before, and its bytes are canonical."""
    head = _GENESIS
    sealed = [record for record in evidence.audit if record.sequence is not None]
    for due, record in enumerate(sealed, 1):
        if record.sequence != due:
            yield f"record {due} is missing: {record.sequence} is there"
            return
        if jcs.canonicalize(dict(record.said)) != record.body.encode():
            yield f"record {due} is not canonical"
        name, body = record.id.encode(), record.body.encode()
        place, length = due.to_bytes(8), len(name).to_bytes(8)
        head = hashlib.sha256(
            b"".join((_LABEL, head, place, length, name, body))
        ).digest()
        if head.hex() != record.hash:
            yield f"record {due} does not follow from the one before"
            return


def _all_sealed(evidence: Evidence) -> Iterator[str]:
    """I8: nothing waits for its place while others get theirs."""
    newest = max((record.milliseconds for record in evidence.audit), default=0)
    for record in evidence.audit:
        waits = newest - record.milliseconds
        if record.sequence is None and waits > _PATIENCE_MS:
            yield f"{record.id} has waited for its seal for {waits} ms"


def _written_once(evidence: Evidence) -> Iterator[str]:
    """I8: what the device signed is not told of twice, as a success."""
    told = defaultdict(list)
    for record in evidence.audit:
        for request_id in record.said.get("device_request_ids", ()):
            told[request_id].append(record.id)
    for request_id, records in told.items():
        if len(records) > 1:
            yield f"the request {request_id} is told of by {' and '.join(records)}"


AUDIT: tuple[tuple[str, Callable[[Evidence], Iterator[str]]], ...] = (
    ("I6", _announced),
    ("I6", _announced_first),
    ("I6", _reserved_with_intent),
    ("I8", chain_holds),
    ("I8", _all_sealed),
    ("I8", _written_once),
)
