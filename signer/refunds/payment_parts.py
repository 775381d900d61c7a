"""The parts of a worker that the steps of its payments share."""

from dataclasses import KW_ONLY, dataclass

from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.config.tenants import TenantRegistry
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.refunds.attempts import Attempts
from signer.refunds.gas import GasMemory
from signer.refunds.gas_price_check import GasPriceCheck
from signer.refunds.nonce_checks import NonceManager
from signer.refunds.payment_approvals import PaymentApprovals
from signer.refunds.saved_steps import SavedSteps
from signer.refunds.signed_requests import SignedRequests
from signer.refunds.transaction_signer import TransactionSigner


@dataclass(eq=False, repr=False)
class PaymentParts:
    """What each step of ``lifecycle`` is given, beside what it moves."""

    store: Ledger
    transaction_signer: TransactionSigner
    nonces: NonceManager
    clock: Clock
    _: KW_ONLY
    audit: AuditLog
    tenants: TenantRegistry
    alerts: Alerts

    def __post_init__(self) -> None:
        store, clock, signer = self.store, self.clock, self.transaction_signer
        prices = GasPriceCheck(store, self.alerts, clock)
        self.approvals = PaymentApprovals(
            store, self.audit, self.alerts, clock, signer.policy
        )
        self.attempts = Attempts(store, signer, prices, clock, self.approvals)
        self.gas = GasMemory(clock)
        self.saved_steps = SavedSteps(store, clock)
        self.signed_requests = SignedRequests(store, self.tenants)
