"""
The invariants I1 to I8 of a refund service, judged from the outside.

It sees chain, store and journal as values (``evidence.py``) and shares no code with
the service: its own idea of legal moves, its own decoding of amounts and bytes.
Each violation is a sentence.  No sentence, no violation.  What is about the audit is
in ``invariants_of_audit.py``.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from decimal import Decimal

from tests.crash.evidence import Evidence, Row
from tests.crash.invariants_of_audit import AUDIT
from tests.crash.journal import Entry
from tests.support.invariants import (
    AFTER_REVOCATION,
    FINAL,
    LEGAL,
    find_violations,
    legal_history,
    one_nonce,
    one_owner,
)


def violations(evidence: Evidence) -> list[str]:
    """Return a sentence for each thing that must never happen, and did."""
    return find_violations(CHECKS, evidence)


def _paid_once(evidence: Evidence) -> Iterator[str]:
    """I1: one matching transfer for a confirmed refund, and none for any other."""
    paid = Counter((t.token, t.recipient, t.amount) for t in evidence.transfers)
    due = Counter(_payment(r) for r in evidence.rows if r.status == "confirmed")
    for payment in paid | due:
        token, recipient, amount = payment
        if paid[payment] != due[payment]:
            yield (
                f"{recipient} got {amount} of {token} {paid[payment]} times,"
                f" and {due[payment]} confirmed refunds say so"
            )


def _as_asked(evidence: Evidence) -> Iterator[str]:
    """I1, from the client: who asked for a refund gets it once, as it was asked."""
    asked = {
        e["recipient"].lower(): e for e in evidence.journal if e["event"] == "asked"
    }
    paid = defaultdict(list)
    for transfer in evidence.transfers:
        paid[transfer.recipient].append(transfer.amount)
    for recipient, amounts in paid.items():
        if recipient not in asked:
            yield f"{recipient} was paid, and nobody asked for it"
        elif amounts != [_units(asked[recipient], evidence)]:
            yield f"{recipient} got {amounts}, asked was {asked[recipient]['amount']}"
    for entry in evidence.journal:
        if entry.get("status") == "confirmed":
            recipient = entry["recipient"].lower()
            if len(paid[recipient]) != 1:
                yield f"{recipient} was told confirmed, and was paid {paid[recipient]}"


def _row_is_on_chain(evidence: Evidence) -> Iterator[str]:
    """I1, by hash: a confirmed row names the block that its transfer is in."""
    places = {t.tx_hash: (t.block_number, t.block_hash) for t in evidence.transfers}
    for row in evidence.rows:
        if row.status != "confirmed":
            continue
        if places.get(row.tx_hash or "") != (row.block_number, row.block_hash):
            yield f"{row.id} is confirmed in block {row.block_number}, and is not there"


def _one_owner(evidence: Evidence) -> Iterator[str]:
    """I2: each nonce of a wallet belongs to one refund."""
    owners = defaultdict(list)
    for row in evidence.rows:
        if row.nonce is not None:
            owners[row.chain_id, row.sender].append((row.id, row.nonce))
    for signed in evidence.signed:
        wallet = signed.chain_id, signed.sender
        owners[wallet].append((signed.refund_id, signed.nonce))
    for holdings in owners.values():
        yield from one_owner(holdings)


def _recorded_first(evidence: Evidence) -> Iterator[str]:
    """I2, from the network: it has nothing of the wallet's that the store has not."""
    recorded = {signed.tx_hash: signed.nonce for signed in evidence.signed}
    for sent in evidence.sent:
        if recorded.get(sent.tx_hash) != sent.nonce:
            yield f"{sent.tx_hash} with nonce {sent.nonce} was sent and never recorded"


def _one_nonce(evidence: Evidence) -> Iterator[str]:
    """I3: a refund has one nonce, in its row, its bytes and every answer."""
    holdings = [(row.id, row.nonce) for row in evidence.rows]
    holdings += [(signed.refund_id, signed.nonce) for signed in evidence.signed]
    holdings += [(signed.refund_id, signed.raw_nonce) for signed in evidence.signed]
    holdings += [(e["id"], e.get("nonce")) for e in evidence.journal if "id" in e]
    yield from one_nonce(each for each in holdings if each[1] is not None)


def _honest_bytes(evidence: Evidence) -> Iterator[str]:
    """I3, from the bytes: they are what their record says."""
    for signed in evidence.signed:
        if (signed.raw_hash, signed.raw_chain_id) != (signed.tx_hash, signed.chain_id):
            yield f"{signed.refund_id} has bytes that are not those of its record"


def _forward(evidence: Evidence) -> Iterator[str]:
    """I4: states move forward, one by one, and a final one stays."""
    histories = defaultdict(list)
    is_revoked = any(key.state == "blocked" for key in evidence.keys)
    for step in evidence.steps:
        histories[step.refund_id].append((step.version, step.status))
    for row in evidence.rows:
        exceptions = {AFTER_REVOCATION} if is_revoked else set()
        yield from legal_history(row, histories[row.id], exceptions)


def _forward_as_told(evidence: Evidence) -> Iterator[str]:
    """I4, from the client: what was told later is what may come later."""
    told = defaultdict(list)
    for entry in evidence.journal:
        if "status" in entry and "id" in entry:
            told[entry["id"]].append(entry)
    for refund_id, entries in told.items():
        for i, earlier in enumerate(entries):
            for later in entries[i + 1 :]:
                # Requests that overlap may be answered in any order.
                if later["began"] < earlier["at"]:
                    continue
                if later["status"] not in REACHABLE[earlier["status"]]:
                    yield (
                        f"{refund_id} was told {earlier['status']},"
                        f" and then {later['status']}"
                    )


def _sums(evidence: Evidence) -> Iterator[str]:
    """I5: what the wallet has less is what was confirmed, token by token."""
    confirmed = Counter[str]()
    for row in evidence.rows:
        if row.status == "confirmed":
            confirmed[row.token] += row.amount
    for token in evidence.spent.keys() | confirmed.keys():
        spent = evidence.spent.get(token, 0)
        if spent != confirmed[token]:
            yield f"{spent} of {token} left the wallet, {confirmed[token]} is confirmed"


def _kept_promises(evidence: Evidence) -> Iterator[str]:
    """I7: whatever a client was told with 2xx is in the store, and one thing only."""
    rows = {row.id: row for row in evidence.rows}
    ids = defaultdict(set)
    for entry in evidence.journal:
        if entry["event"] != "answered" or entry["http"] // 100 != 2:
            continue
        ids[entry["key"]].add(entry["id"])
        row = rows.get(entry["id"])
        if row is None or row.key != entry["key"]:
            yield f"{entry['id']} was promised to {entry['key']}, and is lost"
        elif _payment(row)[1:] != (entry["recipient"].lower(), _units(entry, evidence)):
            yield f"{row.id} is stored with another recipient or amount than promised"
    for key, given in ids.items():
        if len(given) > 1:
            yield f"{key} was given the refunds {sorted(given)}"


def _same_answer(evidence: Evidence) -> Iterator[str]:
    """I7, word for word: whoever asks twice is answered the same."""
    bodies = defaultdict(set)
    for entry in evidence.journal:
        if entry["event"] == "answered" and entry["http"] in {200, 201}:
            bodies[entry["key"]].add(entry.get("body"))
    for key, given in bodies.items():
        if len(given) > 1:
            yield f"{key} was given {len(given)} different answers"


def _finished(evidence: Evidence) -> Iterator[str]:
    """G2: at the end everything accepted is final, and nobody was turned down."""
    for row in evidence.rows:
        if row.status not in FINAL:
            yield f"{row.id} is still {row.status}"
    served = {e["key"] for e in evidence.journal if e.get("http") in {200, 201}}
    for entry in evidence.journal:
        if entry["event"] == "asked" and entry["key"] not in served:
            yield f"{entry['key']} asked for what it may have, and never got it"


def _one_active(evidence: Evidence) -> Iterator[str]:
    """O1: one key is the active one, and no rotation was left half done."""
    states = Counter(key.state for key in evidence.keys)
    if states["active"] != 1 or states["pending"]:
        yield f"{states['active']} keys are active, and {states['pending']} pending"


CHECKS: tuple[tuple[str, Callable[[Evidence], Iterator[str]]], ...] = (
    ("I1", _paid_once),
    ("I1", _as_asked),
    ("I1", _row_is_on_chain),
    ("I2", _one_owner),
    ("I2", _recorded_first),
    ("I3", _one_nonce),
    ("I3", _honest_bytes),
    ("I4", _forward),
    ("I4", _forward_as_told),
    ("I5", _sums),
    *AUDIT,
    ("I7", _kept_promises),
    ("I7", _same_answer),
    ("G2", _finished),
    ("O1", _one_active),
)


def _payment(row: Row) -> tuple[str, str, int]:
    return row.token, row.recipient, row.amount


def _units(entry: Entry, evidence: Evidence) -> int:
    return int(Decimal(entry["amount"]).scaleb(evidence.decimals))


def _reachable(start: str) -> frozenset[str]:
    found, fresh = {start}, [start]
    while fresh:
        new = LEGAL[fresh.pop()] - found
        found |= new
        fresh += new
    return frozenset(found)


REACHABLE = {status: _reachable(status) for status in LEGAL}
