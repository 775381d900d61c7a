"""
The invariants that the crash laboratory and the simulation share.

Each function takes plain values and yields a sentence for each violation.  It shares no
code with the service.
"""

from collections import defaultdict
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar


E = TypeVar("E")

# Every legal move.  Broadcast returns to signed when the fee is raised, and mined to
# broadcast when a reorganisation removes the block.
LEGAL: dict[str, frozenset[str]] = {
    "queued": frozenset({"reserved", "refused", "cancelled"}),
    "reserved": frozenset({"signed", "failed"}),
    "signed": frozenset({"broadcast"}),
    "broadcast": frozenset({"signed", "mined", "failed"}),
    "mined": frozenset({"broadcast", "confirmed", "failed"}),
    "confirmed": frozenset(),
    "refused": frozenset(),
    "cancelled": frozenset(),
    "failed": frozenset(),
}
FINAL = frozenset(status for status, next_ones in LEGAL.items() if not next_ones)

# Legal only for a refund whose key was revoked before it signed.
AFTER_REVOCATION = ("reserved", "queued")


def find_violations(
    checks: Iterable[tuple[str, Callable[[E], Iterator[str]]]], evidence: E
) -> list[str]:
    """Return the violations that *checks* find, each after its invariant's name."""
    return [
        f"{name}: {sentence}"
        for name, check in checks
        for sentence in sorted(set(check(evidence)))
    ]


def one_owner(holdings: Iterable[tuple[str, Hashable]]) -> Iterator[str]:
    """I2: each nonce belongs to one refund; *holdings* are (refund id, nonce)."""
    owners = defaultdict(set)
    for refund_id, nonce in holdings:
        owners[nonce].add(refund_id)
    for nonce, ids in owners.items():
        if len(ids) > 1:
            yield f"nonce {nonce} belongs to {' and '.join(sorted(ids))}"


def one_nonce(holdings: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """I3: each refund has one nonce; *holdings* are (refund id, nonce)."""
    nonces = defaultdict(set)
    for refund_id, nonce in holdings:
        nonces[refund_id].add(nonce)
    for refund_id, seen in nonces.items():
        if len(seen) > 1:
            yield f"{refund_id} has the nonces {sorted(seen)}"


def legal_history(
    row: Any,
    history: Sequence[tuple[int, str]],
    exceptions: Container[tuple[str, str]] = (),
) -> Iterator[str]:
    """I4: *history*, (version, status) in order, leads from queued to *row* legally."""
    versions = [version for version, _ in history]
    statuses = [status for _, status in history]
    # Claims and delays raise the row's version, and write no history.
    if versions[:1] != [0] or versions[-1] > row.version:
        yield f"{row.id} has version {row.version}, and {versions} in its history"
    if any(later <= earlier for earlier, later in pairwise(versions)):
        yield f"{row.id} has a step twice, or out of order"
    if statuses[:1] != ["queued"] or statuses[-1:] != [row.status]:
        yield f"{row.id} is {row.status}, and its history says {statuses}"
    for before, after in pairwise(statuses):
        if after not in LEGAL[before] and (before, after) not in exceptions:
            yield f"{row.id} went from {before} to {after}"
