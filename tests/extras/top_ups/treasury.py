"""A treasury in the same process: the refund service of another ledger."""

from dataclasses import dataclass, field

from api.extras.top_ups.treasury import TopUp, TreasuryToken
from signer.errors import HotWalletError, TreasuryError
from signer.model.audit_record import Actor
from signer.model.refund import Refund, RefundRequest
from tests.fixtures.ledger import refund_page
from tests.fixtures.scripted_chain import CHAIN_ID, TOKEN
from tests.support.refunds import World


TENANT = "shop-wallet"


@dataclass
class LedgerTreasury:
    """
    A ``Treasury`` over the ledger of *world*, without HTTP.

    ``failures`` are raised by the next calls.  With ``loses_replies``, a request is
    accepted and its answer is lost.  ``asked`` has the requests with their keys.
    """

    world: World
    token: TreasuryToken | None = field(
        default_factory=lambda: TreasuryToken("local", "TUSD")
    )
    failures: list[Exception] = field(default_factory=list)
    loses_replies: bool = False
    asked: list[tuple[RefundRequest, str]] = field(default_factory=list)

    def find_token(self, chain_id: int, address: str) -> TreasuryToken | None:
        self._fail()
        assert (chain_id, address) == (CHAIN_ID, TOKEN)
        return self.token

    def newest_top_up(self, session_id: str) -> TopUp | None:
        self._fail()
        found = self.top_ups(session_id)
        return _read(found[0]) if found else None

    def request(self, request: RefundRequest, idempotency_key: str) -> TopUp:
        self.asked.append((request, idempotency_key))
        self._fail()
        try:
            accepted = self.world.service.submit(
                tenant=TENANT,
                idempotency_key=idempotency_key,
                request=request,
                actor=Actor(TENANT, "req-1"),
            )
        except HotWalletError as e:
            raise TreasuryError(e.code, is_refusal=True) from None
        if self.loses_replies:
            raise TreasuryError("too-slow")
        return _read(accepted.refund)

    def top_ups(self, session_id: str | None = None) -> list[Refund]:
        """Return the refunds of the tenant, newest first."""
        page = refund_page(self.world.store, TENANT, payment_session_id=session_id)
        return [*page.refunds]

    def pay(self) -> None:
        """Pay all top-ups to their end."""
        worker = self.world.worker
        worker.work()
        self.world.chain.mine()
        self.world.chain.mine_empty(5)
        for _ in range(3):
            worker.work()

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)


def _read(refund: Refund) -> TopUp:
    return TopUp(refund.id, refund.status, refund.created_at, refund.block_number)
