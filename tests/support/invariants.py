"""
The invariants of the service, for the crash laboratory and the simulation.

Each check takes plain values and yields a sentence for each violation.  It shares no
code with the service.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import (
    Callable,
    Container,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from itertools import pairwise
from typing import Any, TypeVar

import jcs  # type: ignore[import-untyped]  # It ships none.


E = TypeVar("E")

# Every legal move.  Broadcast returns to signed when the fee is raised, and mined to
# broadcast when a reorganisation removes the block.
LEGAL: dict[str, frozenset[str]] = {
    "awaiting-approval": frozenset({"queued", "refused", "cancelled"}),
    "queued": frozenset({"awaiting-approval", "reserved", "refused", "cancelled"}),
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

# Legal only for a refund of a batch, which is final and has not paid it.
SKIPPED = ("mined", "queued")

_GENESIS = hashlib.sha256(b"hotwallet audit chain 1: genesis").digest()
_LABEL = b"hotwallet audit chain 1: record"


def find_violations(
    checks: Iterable[tuple[str, Callable[[E], Iterator[str]]]], evidence: E
) -> list[str]:
    """Return the violations that *checks* find, each after its invariant's name."""
    return [
        f"{name}: {sentence}"
        for name, check in checks
        for sentence in sorted(set(check(evidence)))
    ]


def paid_iff_confirmed(
    paid: Iterable[Hashable],
    confirmed: Iterable[Hashable],
    either: Container[Hashable] = (),
) -> Iterator[str]:
    """I1: each confirmed refund is paid once; what is in *either* may be unpaid."""
    made, due = Counter(paid), Counter(confirmed)
    for payment in made | due:
        if made[payment] != due[payment] and payment not in either:
            yield (
                f"{payment} was paid {made[payment]} times, and"
                f" {due[payment]} refunds of it are confirmed"
            )


def paid_as_requested(
    paid: Iterable[tuple[str, int]], requested: Mapping[str, Container[int]]
) -> Iterator[str]:
    """I1: each recipient was paid at most once, and an amount that was requested."""
    amounts = defaultdict(list)
    for recipient, amount in paid:
        amounts[recipient].append(amount)
    for recipient, got in amounts.items():
        if recipient not in requested:
            yield f"{recipient} was paid {got}, and no client requested it"
        elif len(got) > 1:
            yield f"{recipient} was paid {len(got)} times"
        elif got[0] not in requested[recipient]:
            yield f"{recipient} was paid {got}, and {requested[recipient]} requested"


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
    """I4: *history*, (version, status) in order, leads legally to *row*."""
    versions = [version for version, _ in history]
    statuses = [status for _, status in history]
    # Claims and delays raise the row's version, and write no history.
    if versions[:1] != [0] or versions[-1] > row.version:
        yield f"{row.id} has version {row.version}, and {versions} in its history"
    if any(later <= earlier for earlier, later in pairwise(versions)):
        yield f"{row.id} has a step twice, or out of order"
    is_begun = statuses[:1] in (["queued"], ["awaiting-approval"])
    if not is_begun or statuses[-1:] != [row.status]:
        yield f"{row.id} is {row.status}, and its history is {statuses}"
    for before, after in pairwise(statuses):
        if after not in LEGAL[before] and (before, after) not in exceptions:
            yield f"{row.id} went from {before} to {after}"


def equal_sums(spent: Mapping[str, int], confirmed: Mapping[str, int]) -> Iterator[str]:
    """I5: what left the wallets is what is confirmed, token by token."""
    for token in spent.keys() | confirmed.keys():
        left, due = spent.get(token, 0), confirmed.get(token, 0)
        if left != due:
            yield f"{left} of {token} left the wallets, {due} is confirmed"


def kept_promises(
    promises: Iterable[tuple[str, str, Hashable]],
    stored: Mapping[str, tuple[str, Hashable]],
) -> Iterator[str]:
    """
    I7: the store has what clients were answered, and each key has one refund.

    *promises* are (idempotency key, refund id, terms), and *stored* maps the refund id
    to (idempotency key, terms).
    """
    answers = defaultdict(set)
    for key, refund_id, terms in promises:
        answers[key].add(refund_id)
        if refund_id not in stored or stored[refund_id][0] != key:
            yield f"{refund_id} was promised to {key}, and is lost"
        elif stored[refund_id][1] != terms:
            yield f"{refund_id} was promised as {terms}, stored is {stored[refund_id]}"
    for key, given in answers.items():
        if len(given) > 1:
            yield f"{key} was answered {sorted(given)}"


def hash_chain(records: Iterable[Any]) -> Iterator[str]:
    """I8: each sealed record follows from the one before, and its JSON is canonical."""
    head = _GENESIS
    sealed = [record for record in records if record.sequence is not None]
    for sequence, record in enumerate(sealed, 1):
        if record.sequence != sequence:
            yield f"record {sequence} is missing: {record.sequence} is there"
            return
        name, body = record.id.encode(), record.body.encode()
        if jcs.canonicalize(dict(record.fields)) != body:
            yield f"record {sequence} is not canonical"
        parts = (sequence.to_bytes(8), len(name).to_bytes(8), name, body)
        head = hashlib.sha256(b"".join((_LABEL, head, *parts))).digest()
        if head.hex() != record.hash:
            yield f"record {sequence} does not follow from the one before"
            return


def one_active_key(states: Iterable[str]) -> Iterator[str]:
    """O1: exactly one key is active, and no rotation is left unfinished."""
    count = Counter(states)
    if count["active"] != 1 or count["pending"]:
        yield f"{count['active']} keys are active, and {count['pending']} pending"
