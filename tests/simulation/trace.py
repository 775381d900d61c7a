"""The readable trace of a schedule: one line per event."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from structlog import DropEvent
from structlog.testing import capture_logs
from structlog.typing import EventDict

from signer.model.acceptance import Acceptance
from signer.model.audit_record import Record
from signer.model.key import Key
from signer.model.refund import InFlight, Refund
from signer.model.transaction import SignedTransaction, Transaction
from signer.model.wallet import UnrecordedTransaction, Wallet
from signer.ports.chain import Block, Call, Fees, MinedTransaction, Receipt
from signer.ports.refund_store import Change, Reservation


if TYPE_CHECKING:
    from tests.simulation.scheduler import Scheduler


class Trace:
    """Collects lines if *wanted*."""

    def __init__(self, *, wanted: bool) -> None:
        self.wanted = wanted
        self.lines: list[str] = []

    def add(self, now: float, who: str, what: str) -> None:
        """Add one event at *now*, in simulated seconds."""
        if self.wanted:
            self.lines.append(f"{now:10.3f}  {who:<9} {what}")

    @contextmanager
    def logs(self, scheduler: "Scheduler") -> Iterator[None]:
        """Add the service's log to the trace instead of printing it."""

        def write(logger: object, method: str, event: EventDict) -> NoReturn:
            if self.wanted:
                name = event.pop("event")
                fields = " ".join(f"{k}={brief(v)}" for k, v in event.items())
                self.add(scheduler.now, "", f"    log: {name} {fields}")
            raise DropEvent

        with capture_logs(processors=[write]):
            yield


def brief(value: object) -> str:
    """Return a short text of *value* that is the same in every run."""
    shorten = _SHORTEN.get(type(value))
    if shorten is not None:
        return shorten(value)
    if isinstance(value, Mapping):
        return brief(tuple(value.values()))
    if isinstance(value, frozenset | set):
        return brief(sorted(value, key=str))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"({', '.join(map(brief, value))})"
    if callable(value):
        return "..."
    return str(value)


def _refund(refund: Refund | Transaction) -> str:
    return f"{refund.id[-6:]} {refund.status} v{refund.version} n{refund.nonce}"


def _receipt(receipt: Receipt) -> str:
    outcome = "mined" if receipt.succeeded else "reverted"
    return f"{receipt.tx_hash[:8]} {outcome} in {brief(receipt.block)}"


def _text(text: str) -> str:
    return text[:10] if text.startswith("0x") else text[-30:]


_SHORTEN: Mapping[type, Callable[[Any], str]] = {
    Refund: _refund,
    Receipt: _receipt,
    SignedTransaction: lambda tx: f"{tx.kind} n{tx.nonce} {tx.tx_hash[:8]}",
    Acceptance: lambda one: f"accept {_refund(one.refund)}",
    Reservation: lambda one: f"reserve {_refund(one.refund)}",
    Change: lambda one: f"{_refund(one.before)} to {_refund(one.after)}",
    Transaction: _refund,
    InFlight: lambda one: f"[{_refund(one.transaction)}]",
    Block: lambda block: f"block {block.number} {block.hash[:8]}",
    MinedTransaction: lambda tx: f"n{tx.nonce} {tx.tx_hash[:8]} in {brief(tx.block)}",
    Wallet: lambda w: f"next n{w.next_nonce} v{w.version} {w.paused_by or ''}".rstrip(),
    UnrecordedTransaction: lambda s: (
        f"sighted n{s.nonce} {'ours' if s.memo else 'foreign'}"
    ),
    Key: lambda key: f"key {key.address[:8]} {key.state} {key.epoch}",
    Record: lambda record: record.fields["event"],
    Fees: lambda fees: f"base {(fees.base_fee or 0) // 10**9} gwei",
    Call: lambda call: "call",
    bytes: lambda raw: f"{len(raw)} bytes",
    str: _text,
    datetime: lambda moment: moment.isoformat(timespec="milliseconds")[:-6],
}
