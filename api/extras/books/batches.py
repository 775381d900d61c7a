"""Splits a batch that a vault paid into its items, each with its own transfer."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from eth_utils.address import to_checksum_address as to_address

from api.extras.books.entries import Outflow, UsedNonce
from api.extras.books.tables import NonceEntry
from signer.chain.vault import End, Item, decode_pay, read_ends
from signer.errors import EncodingError
from signer.ports.chain import Settled


def split_batch(used: UsedNonce, vaults: Collection[str]) -> Sequence[UsedNonce]:
    """
    Return an entry for each item of a batch, or *used* alone if it is none.

    Each has the refund of its position, and the transfer that the events of vault and
    token prove for it.  The first one has the fee.  What else left a wallet in the
    transaction follows, and an item that no refund has and that was not paid is left
    out.
    """
    settled, batch = used.settled, used.entry.batch
    if settled is None or settled.sender != used.wallet:
        return [used]
    items = _read_items(settled, vaults)
    if items is None and (batch is None or not batch.payments):
        return [used]  # All refunds of a batch may have left it.
    found = [*_split(used, settled, items or [])]
    first, *others = found or [replace(used, payments=())]
    return [first, *(replace(each, has_fee=False) for each in others)]


def _read_items(
    settled: Settled, vaults: Collection[str]
) -> Sequence[tuple[Item, Outflow, End]] | None:
    """Return the items, what each would pay, and how it ended; None if it has none."""
    vault = settled.to
    if vault is None or vault not in vaults:
        return None
    try:
        token, items = decode_pay(settled.data)
    except EncodingError:
        return None
    unpaid = End(None, has_transfer=False)
    ends = tuple(unpaid for _ in items)
    if settled.succeeded:
        with suppress(EncodingError):  # No item is proved then.
            ends = read_ends(settled.logs, vault=vault, token=token, items=items)
    payments = [
        Outflow(to_address(token), to_address(each.recipient), each.amount, vault)
        for each in items
    ]
    return list(zip(items, payments, ends, strict=True))


def _split(
    used: UsedNonce,
    settled: Settled,
    items: Sequence[tuple[Item, Outflow, End]],
) -> Iterator[UsedNonce]:
    batch = used.entry.batch
    payments_of = batch.payments if batch else ()
    refunds = {each.position or 0: each for each in payments_of}
    if not used.is_own:
        refunds = {}
    rest = Counter(used.payments)
    for position in range(max(len(items), max(refunds, default=-1) + 1)):
        refund = refunds.get(position)
        item, payments = None, tuple[Outflow, ...]()
        if position < len(items):
            item, payment, end = items[position]
            if end.has_transfer and rest[payment]:
                rest[payment] -= 1
                payments = (payment,)
        if refund is None and not payments:
            continue
        # Its refund may have left the batch, or the ledger has lost the batch.
        entry = NonceEntry(used.entry.nonce) if refund is None else used.entry
        yield replace(
            used,
            entry=replace(entry, refund=refund),
            payments=payments,
            item=position,
            mark=None if refund is not None or item is None else item.mark,
        )
    left = tuple(rest.elements())
    if left or (items and not refunds):
        # The rows of the nonce are compared as well, if no refund has it.
        yield replace(used, payments=left)
