"""Refunds that a gateway requests, cancels, and requests again after a restore."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

from tests.crash.dependencies import DECIMALS
from tests.crash.evidence import Transfer
from tests.crash.gateway_client import Gateway, Order
from tests.crash.journal import Journal


_THREADS = 12
_FINAL_SECONDS = 180.0
_ALREADY_PAID = "already-paid"


@dataclass(slots=True)
class Case:
    """
    An order, and what the gateway knows of it.

    ``document`` is the refund as it was read last.  ``is_cancelled``: the service has
    promised that it is never paid.
    """

    order: Order
    tenant: str
    document: dict[str, Any]
    is_cancelled: bool = False

    @property
    def was_paid(self) -> bool:
        """Whether the service reported that the customer was paid."""
        if self.document.get("status") == "confirmed":
            return True
        failure = self.document.get("failure") or {}
        return failure.get("code") == _ALREADY_PAID

    def find_problem(self, paid: Sequence[int]) -> str | None:
        """Return what is wrong if the customer got the amounts *paid*."""
        due = int(Decimal(self.order.amount).scaleb(DECIMALS))
        status = self.document.get("status")
        if self.is_cancelled:
            is_right = status == "cancelled" and not paid
        else:
            is_right = self.was_paid and list(paid) == [due]
        if is_right:
            return None
        cancelled = ", cancelled" if self.is_cancelled else ""
        return f"{self.order.key}{cancelled}: paid {paid} of {due}, {self.document}"


class Customers:
    """
    The cases of a laboratory's gateway.

    Requests are sent in threads, and are repeated until the service has answered, also
    while it is down.
    """

    def __init__(self, port: int, token_key: Path, folder: Path) -> None:
        self._port = port
        self._token_key = token_key
        self._journal = Journal(folder / "gateway.journal")
        self._gateways: dict[str, Gateway] = {}
        self._pool = ThreadPoolExecutor(_THREADS)
        self._requests: list[Future[None]] = []
        self.cases: list[Case] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for gateway in self._gateways.values():
            gateway.stop.set()
        self._pool.shutdown(cancel_futures=True)

    def request(self, count: int, tenant: str = "gateway") -> Sequence[Case]:
        """Begin to request *count* new refunds, and return their cases."""
        first = len(self.cases)
        cases = [
            Case(Order.numbered("drill", number), tenant, {})
            for number in range(first, first + count)
        ]
        self.cases += cases
        self._submit(self._pay, cases)
        return cases

    def cancel(self, cases: Sequence[Case]) -> None:
        """Begin to cancel *cases*, which may be too late."""
        self._submit(self._cancel, cases)

    def wait(self) -> bool:
        """Return whether the service answers each request in three minutes."""
        requests, self._requests = self._requests, []
        for request in wait(requests, _FINAL_SECONDS).done:
            request.result()
        return all(request.done() for request in requests)

    def repeat(self, cases: Sequence[Case]) -> bool:
        """Request *cases* again, with the same keys, and ``wait`` for the answers."""
        answered = self.wait()
        self._submit(self._pay, cases)
        return self.wait() and answered

    def settle(self) -> bool:
        """Request everything again; return whether all is final in three minutes."""
        answered = self.repeat(self.cases)
        self._submit(self._watch, self.cases)
        return self.wait() and answered

    def find_problems(self, transfers: Sequence[Transfer]) -> Iterator[str]:
        """Yield a sentence for each case that *transfers* did not pay as promised."""
        paid: dict[str, list[int]] = {}
        for transfer in transfers:
            paid.setdefault(transfer.recipient, []).append(transfer.amount)
        for case in self.cases:
            got = paid.pop(case.order.recipient.lower(), [])
            problem = case.find_problem(got)
            if problem is not None:
                yield problem
        for recipient in paid:
            yield f"{recipient} was paid, and no case is about it"

    def _submit(self, work: Any, cases: Sequence[Case]) -> None:
        self._requests += [self._pool.submit(work, case) for case in cases]

    def _gateway(self, case: Case) -> Gateway:
        return self._gateways.setdefault(
            case.tenant,
            Gateway(self._port, self._token_key, self._journal, case.tenant),
        )

    def _pay(self, case: Case) -> None:
        refund_id = self._gateway(case).pay(case.order)
        if refund_id is not None:
            case.document = {"id": refund_id}

    def _cancel(self, case: Case) -> None:
        gateway = self._gateway(case)
        refund_id = gateway.pay(case.order)
        if refund_id is not None and gateway.cancel(case.order, refund_id):
            case.is_cancelled = True

    def _watch(self, case: Case) -> None:
        refund_id = case.document.get("id")
        if refund_id is not None:
            case.document = self._gateway(case).watch(case.order, refund_id)
