"""A week of refunds that ended, so that plots and lists have something to show."""

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, insert

from backends.sql import SQLStore
from backends.sql.tables import refund_moves
from signer.model.refund import Refund, Status, new_refund_id
from signer.row_macs import RowMACs
from tests.fixtures.ledger import filled, queued


_FORMER_WALLET = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
_RECIPIENTS = (
    "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
    "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
)
_HOURS = 7 * 24
_BUSIEST = 5  # Refunds in the busiest hour.

_OUTCOMES = {
    Status.CONFIRMED: 92,
    Status.CANCELLED: 4,
    Status.REFUSED: 3,
    Status.FAILED: 1,
}
"""Of a hundred refunds."""


def write_history(store: SQLStore, macs: RowMACs, now: datetime, token: str) -> None:
    """Write the refunds of the last week into *store*, the same ones each time."""
    chance = random.Random(7)
    refunds = list(_refunds(chance, now, token))
    filled(store, [_sealed(macs, each) for each in refunds])
    moves = [move for each in refunds for move in _moves(chance, each)]

    def work(connection: Connection) -> None:
        connection.execute(insert(refund_moves), moves)

    store._database.transaction(work)


def _sealed(macs: RowMACs, refund: Refund) -> Refund:
    sealed = replace(refund, mac=macs.compute(refund))
    if refund.transaction is None:
        return sealed
    return sealed.inside(macs.sealed(refund.transaction))


def _refunds(chance: random.Random, now: datetime, token: str) -> Iterator[Refund]:
    nonce = number = 0
    for hour in range(_HOURS, 0, -1):
        begin = now - timedelta(hours=hour)
        # People return things in the evening.
        busy = 0.5 + 0.5 * math.sin((begin.hour - 13) * math.pi / 12)
        for _ in range(round(busy * _BUSIEST * chance.uniform(0.5, 1))):
            at = begin + timedelta(seconds=chance.uniform(0, 3599))
            (status,) = chance.choices([*_OUTCOMES], [*_OUTCOMES.values()])
            was_sent = status in {Status.CONFIRMED, Status.FAILED}
            nonce += was_sent
            number += 1  # Of the reference, which is unique.
            yield queued(
                id=new_refund_id(at),
                tenant=chance.choice(("shop", "marketplace")),
                reference=f"order-{8000 + 7 * number}",
                payment_session_id=f"ps_{chance.randrange(10**9)}",
                token_address=token,
                recipient=chance.choice(_RECIPIENTS),
                amount=chance.randrange(500_000, 120_000_000, 10_000),
                status=status,
                created_at=at,
                updated_at=at + timedelta(minutes=1),
                due_at=at,
                version=5,
                mac="later",
                failure_code=_FAILURES.get(status),
                **(_sent(nonce) if was_sent else {}),
            )


_FAILURES = {
    Status.REFUSED: "execution-reverted",
    Status.FAILED: "reverted",
}


def _sent(nonce: int) -> dict[str, object]:
    return {
        "sender": _FORMER_WALLET,
        "key_id": "00",
        "nonce": nonce,
        "gas_limit": 65_000,
        "tx_hash": f"0x{nonce:064x}",
        "block_number": nonce,
        "block_hash": f"0x{nonce:064x}",
    }


def _moves(chance: random.Random, refund: Refund) -> Iterator[dict[str, object]]:
    path = [Status.QUEUED, refund.status]
    if refund.nonce is not None:
        sent = (Status.RESERVED, Status.SIGNED, Status.BROADCAST, Status.MINED)
        path = [Status.QUEUED, *sent, refund.status]
    at = refund.created_at
    for version, status in enumerate(path):
        yield {"refund_id": refund.id, "version": version, "status": status, "at": at}
        seconds = chance.lognormvariate(-2, 0.7)
        at += timedelta(seconds=seconds if status is not Status.MINED else 20)
