"""
Judges a run of the crash laboratory by the invariants I1 to I8, G2 and O1.

It sees chain, store, audit and journals as values (``evidence.py``), and shares no code
with the service.  The checks that the simulation shares are in
``tests/support/invariants.py``.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from tests.crash.evidence import Evidence, Recorded, Row, Signed, Transfer, name_batch
from tests.crash.journal import Entry
from tests.support import invariants as shared
from tests.support.invariants import AFTER_REVOCATION, FINAL, LEGAL, SKIPPED


_SEAL_MS = 5_000

Terms = tuple[str, str | None, int]
"""A recipient, the calldata of a call, and an amount."""

Owner = tuple[str, str]
"""A refund's id, or a batch, and the address whose nonce it has, in lower case."""


def violations(evidence: Evidence) -> list[str]:
    return shared.find_violations(CHECKS, evidence)


def _paid_iff_confirmed(evidence: Evidence) -> Iterator[str]:
    paid = [(t.token, *_terms(t)) for t in evidence.transfers]
    confirmed = [
        (row.token, *_terms(row)) for row in evidence.rows if row.status == "confirmed"
    ]
    yield from shared.paid_iff_confirmed(paid, confirmed)


def _paid_as_requested(evidence: Evidence) -> Iterator[str]:
    asked = [entry for entry in evidence.journal if entry["event"] == "asked"]
    requested = {
        _payee(recipient, calldata): [amount]
        for recipient, calldata, amount in (_requested(e, evidence) for e in asked)
    }
    paid = [(_payee(t.recipient, t.calldata), t.amount) for t in evidence.transfers]
    yield from shared.paid_as_requested(paid, requested)


def _paid_as_reported(evidence: Evidence) -> Iterator[str]:
    """I1, from the client: each refund that it saw confirmed was paid."""
    paid = Counter(transfer.recipient for transfer in evidence.transfers)
    for entry in evidence.journal:
        if entry.get("status") == "confirmed":
            times = paid[entry["recipient"].lower()]
            if times != 1:
                yield f"{entry['id']} was reported confirmed, and paid {times} times"


def _marked_once(evidence: Evidence) -> Iterator[str]:
    """I1, from the vault: it has paid each item once."""
    for mark, times in Counter(evidence.marks).items():
        if times > 1:
            yield f"the vault has paid {mark} {times} times"


def _failed_for_a_reason(evidence: Evidence) -> Iterator[str]:
    """I1: a batch fails no refund but one whose recipient the token refuses."""
    for row in evidence.rows if evidence.batches else ():
        is_refused = row.recipient in evidence.blocked
        if row.status in {"failed", "refused"} and not is_refused:
            yield f"{row.id} is {row.status}, and the token would have paid it"


def _row_is_on_chain(evidence: Evidence) -> Iterator[str]:
    """I1, by hash: a confirmed row names the block that its transfer is in."""
    places = {t.tx_hash: (t.block_number, t.block_hash) for t in evidence.transfers}
    for row in evidence.rows:
        if row.status != "confirmed":
            continue
        if places.get(row.tx_hash or "") != (row.block_number, row.block_hash):
            yield f"{row.id} is confirmed in block {row.block_number}, and is not there"


def _one_owner(evidence: Evidence) -> Iterator[str]:
    holdings = [
        (row.id, (row.chain_id, row.sender, row.nonce))
        for row in evidence.rows
        if row.nonce is not None
    ]
    holdings += [
        (s.refund_id, (s.chain_id, s.sender, s.nonce)) for s in evidence.signed
    ]
    yield from shared.one_owner(
        each for each in holdings if each[1][1:] not in evidence.batches
    )


def _recorded_first(evidence: Evidence) -> Iterator[str]:
    """I2: the network has no transaction of a wallet that the store has not."""
    recorded = {signed.tx_hash: signed.nonce for signed in evidence.signed}
    for sent in evidence.sent:
        if recorded.get(sent.tx_hash) != sent.nonce:
            yield f"{sent.tx_hash} with nonce {sent.nonce} was sent and never recorded"


def _one_nonce(evidence: Evidence) -> Iterator[str]:
    """
    I3: a refund has one nonce, in its row, its bytes and every response.

    The exceptions are a nonce that a revoked key reserved and never signed, and that
    of a final batch that has not paid the refund.
    """
    is_revoked = _is_revoked(evidence)
    skipped = {(refund_id, nonce) for refund_id, _, nonce in evidence.skipped}
    holdings = [(row.id, row.nonce) for row in evidence.rows]
    holdings += [(signed.refund_id, signed.nonce) for signed in evidence.signed]
    holdings += [(signed.refund_id, signed.raw_nonce) for signed in evidence.signed]
    holdings += [
        (entry["id"], entry.get("nonce"))
        for entry in evidence.journal
        if "id" in entry and not (is_revoked and entry.get("status") == "reserved")
    ]
    held = ((id_, nonce) for id_, nonce in holdings if nonce is not None)
    yield from shared.one_nonce(each for each in held if each not in skipped)


def _bytes_match_record(evidence: Evidence) -> Iterator[str]:
    """I3: the signed bytes match their record."""
    for signed in evidence.signed:
        if (signed.raw_hash, signed.raw_chain_id) != (signed.tx_hash, signed.chain_id):
            yield f"{signed.refund_id} has bytes that are not those of its record"


def _legal_history(evidence: Evidence) -> Iterator[str]:
    exceptions = {AFTER_REVOCATION} if _is_revoked(evidence) else set()
    exceptions |= {SKIPPED} if evidence.batches else set()
    histories = defaultdict(list)
    for step in evidence.steps:
        histories[step.refund_id].append((step.version, step.status))
    for row in evidence.rows:
        yield from shared.legal_history(row, histories[row.id], exceptions)


def _legal_responses(evidence: Evidence) -> Iterator[str]:
    """I4, from the client: each status can follow from the one reported before."""
    requeues = _is_revoked(evidence)
    reachable = REACHABLE_WITH_BATCHES if evidence.batches else REACHABLE
    reported = defaultdict(list)
    for entry in evidence.journal:
        if "status" in entry and "id" in entry:
            reported[entry["id"]].append(entry)
    for refund_id, entries in reported.items():
        for i, earlier in enumerate(entries):
            for later in entries[i + 1 :]:
                # Requests that overlap may be answered in any order.
                if later["began"] < earlier["at"]:
                    continue
                before, after = earlier["status"], later["status"]
                # A refund whose key was revoked before it signed is queued again.
                start = "queued" if requeues and before == "reserved" else before
                if after not in reachable[start]:
                    yield f"{refund_id} was reported {before}, and then {after}"


def _equal_sums(evidence: Evidence) -> Iterator[str]:
    confirmed = Counter[str]()
    for row in evidence.rows:
        if row.status == "confirmed":
            confirmed[row.token] += row.amount
    yield from shared.equal_sums(evidence.spent, confirmed)


@dataclass(frozen=True, slots=True)
class Intents:
    """
    The intents in the audit log, with their times on the monotonic clock.

    An intent that was recorded with a reservation has no digest yet: its ``Owner``
    identifies it.  ``owners`` has the owner of each digest in the record of an outcome.
    """

    digests: Mapping[str, float]
    reserved: Mapping[Owner, float]
    owners: Mapping[str, Owner]

    @classmethod
    def of(cls, audit: tuple[Recorded, ...]) -> "Intents":
        digests: dict[str, float] = {}
        reserved: dict[Owner, float] = {}
        owners: dict[str, Owner] = {}
        for record in audit:
            event, digest = record.fields["event"], record.fields.get("digest")
            owner = record.owner
            if event in ("digest-sign-succeeded", "digest-sign-refused"):
                owners[str(digest)] = owner
            elif event == "digest-sign-requested" and digest:
                digests[digest] = min(record.at, digests.get(digest, record.at))
            elif event == "digest-sign-requested":
                reserved[owner] = record.at
        return cls(digests, reserved, owners)


def _signed_with_intent(evidence: Evidence) -> Iterator[str]:
    """I6: each signature that store, network or device know has an intent."""
    known = Intents.of(evidence.audit)
    owners = dict(known.owners)
    owners |= {s.digest: _owner(s.refund_id, s, evidence) for s in evidence.signed}
    signed = owners.keys() | {s.digest for s in evidence.sent} | evidence.used.keys()
    signed -= known.digests.keys()
    owned = signed & owners.keys()
    # A process that died between device and store left an intent, and no outcome.
    lost = signed - owned
    unfinished = known.reserved.keys() - {owners[digest] for digest in owned}
    unannounced = {digest for digest in owned if owners[digest] not in known.reserved}
    if len(lost) > len(unfinished):
        unannounced |= lost
    for digest in unannounced:
        yield f"the digest {digest} was signed without an intent"


def _signed_after_intent(evidence: Evidence) -> Iterator[str]:
    """I6: the device was asked for a signature after its intent was recorded."""
    known = Intents.of(evidence.audit)
    for digest, asked_at in evidence.used.items():
        owner = known.owners.get(digest)
        since = known.digests.get(digest)
        if since is None and owner is not None:
            since = known.reserved.get(owner)
        if since is not None and since > asked_at:
            yield f"the digest {digest} was signed before its intent"


def _reserved_with_intent(evidence: Evidence) -> Iterator[str]:
    """I6: each refund with a nonce has the intent of its reservation."""
    known = Intents.of(evidence.audit)
    for row in evidence.rows:
        owner = _owner(row.id, row, evidence)
        if row.sender is not None and owner not in known.reserved:
            yield f"{row.id} has a nonce of {row.sender}, and no intent"


def _hash_chain(evidence: Evidence) -> Iterator[str]:
    yield from shared.hash_chain(evidence.audit)


def _all_sealed(evidence: Evidence) -> Iterator[str]:
    """I8: no record waits for its sequence number while later ones are sealed."""
    newest = max((record.milliseconds for record in evidence.audit), default=0)
    for record in evidence.audit:
        waits = newest - record.milliseconds
        if record.sequence is None and waits > _SEAL_MS:
            yield f"{record.id} has waited for its seal for {waits} ms"


def _one_success(evidence: Evidence) -> Iterator[str]:
    """I8: each request to the device is in at most one record."""
    records = defaultdict(list)
    for record in evidence.audit:
        for request_id in record.fields.get("device_request_ids", ()):
            records[request_id].append(record.id)
    for request_id, ids in records.items():
        if len(ids) > 1:
            yield f"the request {request_id} is in {' and '.join(ids)}"


def _kept_promises(evidence: Evidence) -> Iterator[str]:
    promises = [
        (
            entry["key"],
            entry["id"],
            _requested(entry, evidence),
        )
        for entry in evidence.journal
        if entry["event"] == "answered" and entry["http"] // 100 == 2
    ]
    stored = {row.id: (row.key, _terms(row)) for row in evidence.rows}
    yield from shared.kept_promises(promises, stored)


def _sent_rows(evidence: Evidence) -> Iterator[tuple[Entry, Row | None]]:
    """Yield each answer to a JSON-RPC client, and the refund that has its hash."""
    owners = {signed.tx_hash: signed.refund_id for signed in evidence.signed}
    rows = {row.id: row for row in evidence.rows}
    for entry in evidence.journal:
        if entry["event"] == "sent":
            yield entry, rows.get(owners.get(entry["tx_hash"], ""))


def _answered_hashes(evidence: Evidence) -> Iterator[str]:
    """I7: each hash that a JSON-RPC client got is of a refund that pays its request."""
    for entry, row in _sent_rows(evidence):
        answer = f"{entry['key']} was answered {entry['tx_hash']}"
        if row is None:
            yield f"{answer}, which no refund has"
        elif _terms(row) != _requested(entry, evidence):
            yield f"{answer}, which pays another request"
        elif row.status != "confirmed":
            yield f"{answer}, and its refund is {row.status}"
        elif entry["is_keyed"] and row.key != entry["key"]:
            yield f"{answer}, whose refund has the key {row.key}"


def _one_refund(evidence: Evidence) -> Iterator[str]:
    """I7: all hashes that were answered for one request are of one refund."""
    refunds = defaultdict(set)
    for entry, row in _sent_rows(evidence):
        if row is not None:
            refunds[entry["key"]].add(row.id)
    for key, ids in refunds.items():
        if len(ids) > 1:
            yield f"{key} became {' and '.join(sorted(ids))}"


def _receipts_stay(evidence: Evidence) -> Iterator[str]:
    """
    I1: each transaction whose receipt a client read made its payment.

    After a reorganisation, another one with the same nonce may have made it.
    """
    paid = {(t.tx_hash, *_terms(t)) for t in evidence.transfers}
    made = {_terms(t) for t in evidence.transfers if evidence.is_reorganised}
    for entry in evidence.journal:
        if entry["event"] != "mined" or _requested(entry, evidence) in made:
            continue
        if (entry["tx_hash"], *_requested(entry, evidence)) not in paid:
            yield f"{entry['key']} has the receipt of {entry['tx_hash']}, unpaid"


def _finished(evidence: Evidence) -> Iterator[str]:
    """
    G2: at the end every refund is final, and no request was refused.

    What a JSON-RPC client abandoned may have been accepted or not.
    """
    for row in evidence.rows:
        if row.status not in FINAL:
            yield f"{row.id} is still {row.status}"
    served = {
        entry["key"]
        for entry in evidence.journal
        if entry.get("http") in {200, 201} or entry["event"] in {"sent", "abandoned"}
    }
    for entry in evidence.journal:
        if entry["event"] == "asked" and entry["key"] not in served:
            yield f"{entry['key']} was requested and never accepted"


def _one_active_key(evidence: Evidence) -> Iterator[str]:
    yield from shared.one_active_key(key.state for key in evidence.keys)


CHECKS: tuple[tuple[str, Callable[[Evidence], Iterator[str]]], ...] = (
    ("I1", _paid_iff_confirmed),
    ("I1", _paid_as_requested),
    ("I1", _paid_as_reported),
    ("I1", _marked_once),
    ("I1", _failed_for_a_reason),
    ("I1", _row_is_on_chain),
    ("I1", _receipts_stay),
    ("I2", _one_owner),
    ("I2", _recorded_first),
    ("I3", _one_nonce),
    ("I3", _bytes_match_record),
    ("I4", _legal_history),
    ("I4", _legal_responses),
    ("I5", _equal_sums),
    ("I6", _signed_with_intent),
    ("I6", _signed_after_intent),
    ("I6", _reserved_with_intent),
    ("I7", _kept_promises),
    ("I7", _answered_hashes),
    ("I7", _one_refund),
    ("I8", _hash_chain),
    ("I8", _all_sealed),
    ("I8", _one_success),
    ("G2", _finished),
    ("O1", _one_active_key),
)


def _is_revoked(evidence: Evidence) -> bool:
    return any(key.state == "blocked" for key in evidence.keys)


def _owner(refund_id: str, holder: Row | Signed, evidence: Evidence) -> Owner:
    """Return the owner of the intent for what *holder* has a nonce of."""
    is_batch = (holder.sender, holder.nonce) in evidence.batches
    name = name_batch(holder.nonce) if is_batch else refund_id
    return name, str(holder.sender)


def _terms(paid: Row | Transfer) -> Terms:
    return paid.recipient, paid.calldata, paid.amount


def _requested(entry: Entry, evidence: Evidence) -> Terms:
    units = int(Decimal(entry["amount"]).scaleb(evidence.decimals))
    return entry["recipient"].lower(), entry.get("calldata"), units


def _payee(recipient: str, calldata: str | None) -> str:
    """Return the recipient of a payment, with the calldata if it is a call."""
    return recipient if calldata is None else f"{recipient} with {calldata}"


def _reachable(start: str, moves: Mapping[str, frozenset[str]]) -> frozenset[str]:
    found, fresh = {start}, [start]
    while fresh:
        new = moves[fresh.pop()] - found
        found |= new
        fresh += new
    return frozenset(found)


_before, _after = SKIPPED
_WITH_BATCHES = LEGAL | {_before: LEGAL[_before] | {_after}}

REACHABLE = {status: _reachable(status, LEGAL) for status in LEGAL}
REACHABLE_WITH_BATCHES = {each: _reachable(each, _WITH_BATCHES) for each in LEGAL}
