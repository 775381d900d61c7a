"""
The evidence of one payment: its records, and the signed bytes that pay it.

The lines of a file::

    {"format":"hotwallet-payment-evidence/1","refund_id":"rf_…"}
    {"hash":"9f…","id":"au_…","mac":"…","record":{…},"sequence":1}   as in an export
    {"raw":"02f8…"}                                  one per signed transaction

It has the acceptance of the refund, the approvals that people signed, and the intents
and the signatures of its transactions.  Those of a batch have the ids of all refunds in
their order, and a digest of them: the position of an id is that of the item in the
signed bytes.  So nothing of the other refunds is needed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rfc8785

from signer.amounts import parse_units
from signer.audit.actions import (
    SIGN_FINISHED,
    SIGN_REQUESTED,
    SUCCESS,
    AuditAction,
)
from signer.audit.export import LineReader, RawRecord, record_lines
from signer.audit.hash_chain import batches, parse_canonical, read_fields
from signer.audit.signed_approvals import GRANTS, verify_grant
from signer.chain.erc20 import decode_transfer
from signer.chain.vault import Item, decode_pay
from signer.crypto.transactions import SignedBytes
from signer.errors import (
    EncodingError,
    HotWalletError,
    InvalidInputError,
    PermissionDeniedError,
)
from signer.model.approvers import Approvers
from signer.model.audit_record import Record, Sealed
from signer.model.refund import make_memo
from signer.model.transaction import compose
from signer.ports.ledger import Ledger


FORMAT = "hotwallet-payment-evidence/1"

_ACCEPTED = AuditAction.REFUND_ACCEPT.event_for(SUCCESS)


def collect(store: Ledger, refund_id: str) -> Iterator[bytes]:
    """
    Yield the lines of the evidence of a refund.

    The signed bytes are those that its wallet and nonce had, in each of its
    transactions.
    """
    yield rfc8785.dumps({"format": FORMAT, "refund_id": refund_id}) + b"\n"
    nonces: dict[tuple[int, str, int], None] = {}
    for batch in batches(store):
        for each in batch:
            if refund_id not in each.record.body:
                continue
            fields = read_fields(each.record)
            if not _is_about(fields, refund_id):
                continue
            yield from record_lines(each)
            details = fields.get("details") or {}
            if fields["event"] in SIGN_FINISHED and "nonce" in details:
                nonce = details["chain_id"], fields["address"], details["nonce"]
                nonces[nonce] = None
    for nonce in nonces:
        transaction = store.find_transaction(*nonce)
        for attempt in () if transaction is None else store.attempts(transaction):
            yield rfc8785.dumps({"raw": attempt.raw.hex()}) + b"\n"


def _is_about(fields: Mapping[str, Any], refund_id: str) -> bool:
    details = fields.get("details")
    details = details if isinstance(details, dict) else {}
    if fields.get("event") in GRANTS:
        return f'"refund_id":"{refund_id}"' in str(details.get("proposal"))
    if fields.get("event") == _ACCEPTED:
        return bool(details.get("refund_id") == refund_id)
    if fields.get("event") not in SIGN_REQUESTED | SIGN_FINISHED:
        return False
    payments = details.get("payments")
    is_in_batch = isinstance(payments, list) and refund_id in payments
    return fields.get("refund_id") == refund_id or is_in_batch


@dataclass(frozen=True, slots=True)
class ProvenPayment:
    """
    One signed transaction that pays the refund, if a block has it.

    ``position`` and ``count`` are those of its item in a batch, counted from 1.
    """

    tx_hash: str
    sender: str
    nonce: int
    position: int | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class PaymentVerdict:
    """
    What the evidence of a payment proves.

    ``accepted`` are the details of its acceptance.  ``approved_by`` are the people who
    signed that it may be paid, as keys of the files of approvers prove.  ``problems``
    are why it proves less than it says.
    """

    refund_id: str
    accepted: Mapping[str, Any]
    payments: Sequence[ProvenPayment]
    problems: Sequence[str]
    approved_by: Sequence[str] = ()


def verify_evidence(
    lines: Iterable[bytes], approvers: Sequence[Approvers] = ()
) -> PaymentVerdict:
    """
    Verify the *lines* of the evidence of one payment, without a database or a node.

    With *approvers*, it also verifies who approved it.

    Raises:
        InvalidInputError: They are no evidence, or do not have one acceptance.
    """
    refund_id, records, raws = _read(lines)
    for record in records:
        if not _is_about(read_fields(record), refund_id):
            raise InvalidInputError(f"the record {record.id} is not about {refund_id}")
    fields = [read_fields(record) for record in records]
    accepted = [each["details"] for each in fields if each["event"] == _ACCEPTED]
    signed = [each for each in fields if each["event"] not in {_ACCEPTED, *GRANTS}]
    if len(accepted) != 1:
        raise InvalidInputError("the evidence does not have one acceptance")
    problems = [*_find_wrong_digests(signed)]
    payments = []
    for raw in raws:
        try:
            found = _prove(raw, refund_id, accepted[0], signed)
        except (HotWalletError, ValueError, LookupError, TypeError) as e:
            problems.append(f"a signed transaction does not pay the refund: {e}")
        else:
            if found is not None:
                payments.append(found)
    people = [*_find_approvers(fields, approvers, problems)] if approvers else []
    return PaymentVerdict(refund_id, accepted[0], payments, problems, people)


def _find_approvers(
    fields: Sequence[Mapping[str, Any]],
    approvers: Sequence[Approvers],
    problems: list[str],
) -> Iterator[str]:
    """Yield who signed an approval among the records; add to *problems*."""
    for each in fields:
        if each["event"] in GRANTS:
            try:
                yield verify_grant(each, approvers)[1].approver
            except (InvalidInputError, PermissionDeniedError) as e:
                problems.append(f"an approval proves nothing: {e}")


def _read(lines: Iterable[bytes]) -> tuple[str, Sequence[Record], Sequence[bytes]]:
    """Return the id of the refund, its records, and the signed bytes."""
    reader = LineReader()
    first, *rest = [*lines] or [b""]
    header = parse_canonical(first.removesuffix(b"\n"))
    if header.keys() != {"format", "refund_id"} or header["format"] != FORMAT:
        raise InvalidInputError(f"it is no evidence of a payment in format {FORMAT}")
    parsed = [_read_line(line, reader) for line in rest]
    records = [each for each in parsed if isinstance(each, Record)]
    raws = [each for each in parsed if isinstance(each, bytes)]
    return str(header["refund_id"]), records, raws


def _read_line(line: bytes, reader: LineReader) -> Record | bytes | None:
    """Return the record or the signed bytes of a line; None within a long record."""
    fields = parse_canonical(line.removesuffix(b"\n"))
    if fields.keys() == {"raw"}:
        return bytes.fromhex(str(fields["raw"]))
    parsed = reader.read(line)
    found = parsed.sealed if isinstance(parsed, RawRecord) else parsed
    if found is not None and not isinstance(found, Sealed):
        raise InvalidInputError("not a line of the evidence of a payment")
    return None if found is None else found.record


def _find_wrong_digests(signed: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for fields in signed:
        details = fields["details"]
        payments = details.get("payments")
        if payments is not None and compose(payments) != details.get("composition"):
            yield "the digest of a batch is not that of its list of refunds"


def _prove(
    raw: bytes,
    refund_id: str,
    accepted: Mapping[str, Any],
    signed: Sequence[Mapping[str, Any]],
) -> ProvenPayment | None:
    """Return what the bytes pay; None if they are a no-op, which pays nothing."""
    found = SignedBytes.decode(raw)
    sent = found.transaction
    digest = sent.signing_digest()
    sender = found.signature.recover(digest).address
    signature = digest.hex(), sender
    own = [
        each
        for each in signed
        if each["event"] in SIGN_FINISHED
        and (each.get("digest"), each.get("address")) == signature
    ]
    if not own:
        raise InvalidInputError("no record is about its signature")
    chain_id = accepted["chain_id"]
    if sent.chain_id != chain_id:
        raise InvalidInputError("it is of another chain")
    if sent.to == sender and not sent.data:
        return None
    token = str(accepted["token_address"])
    amount = parse_units(accepted["amount"], accepted["decimals"])
    memo = make_memo(chain_id, accepted["tenant"], accepted["reference"])
    asked = Item(str(accepted["recipient"]).lower(), amount, memo)
    details = own[0]["details"]
    payments = details.get("payments")
    if payments is None:
        is_paid = sent.to == token and Item(*decode_transfer(sent.data)) == asked
        position = None
    else:
        paid, items = decode_pay(sent.data)
        position = payments.index(refund_id)
        is_paid = (
            sent.to == details["vault"]
            and paid == token.lower()
            and len(items) == len(payments)
            and items[position] == asked
        )
    if not is_paid or sent.value:
        raise EncodingError("recipient, amount, token or memo differ")
    place = None if position is None else position + 1
    count = None if payments is None else len(payments)
    return ProvenPayment(found.tx_hash, sender, sent.nonce, place, count)
