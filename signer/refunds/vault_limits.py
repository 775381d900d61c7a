"""What a vault can pay now: asked before nonces are assigned, and counted down."""

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass

from signer.alerts import Alert, Alerts
from signer.chain.chain import Chain
from signer.chain.vault import VaultRules
from signer.errors import InsufficientFundsError, VaultLimitError
from signer.model.refund import Refund
from signer.ports.ledger import Ledger
from signer.refunds.payload import find_vault


_SECONDS_A_DAY = 86_400


@dataclass(slots=True)
class _Left:
    """
    What a vault may still pay of a token, in base units.

    ``spent`` of the cap is not left ``today`` if it was paid on ``day``, and today is
    that day, of which the chain was not asked yet.
    """

    balance: int
    today: int
    per_item: int
    spent: int
    day: int


@dataclass(eq=False, repr=False)
class VaultLimits:
    """
    The limits of the vault of *chain*, for refunds that *sender* is to pay.

    They spare a refund the wait for a transaction that would skip it.  The contract
    decides: other processes pay meanwhile.

    They report to *alerts*, if the refunds are accepted.
    """

    store: Ledger
    chain: Chain
    sender: str
    _: KW_ONLY
    alerts: Alerts | None = None

    def __post_init__(self) -> None:
        self._left: dict[str, _Left] = {}
        self._refused: set[str] = set()

    def require(self, refund: Refund) -> None:
        """
        Require that a vault can pay *refund* now, if one pays it, and count it.

        Raises:
            InsufficientFundsError: It holds less, besides what was counted.
            VaultLimitError: *sender* is no operator, or a cap does not permit it.
        """
        vault = find_vault(refund, self.chain.network)
        if vault is None:
            return
        left = self._left.get(refund.token_address)
        if left is None:
            left = self._left[refund.token_address] = self._read(vault, refund)
        if refund.amount > left.per_item:
            raise self._refusal(refund, "the cap of an item is lower than the refund")
        if refund.amount > left.today and left.spent:
            # The vault does not know the clock of this host.
            seconds = self.chain.client.latest_block().timestamp
            if seconds // _SECONDS_A_DAY != left.day:
                left.today += left.spent
            left.spent = 0
        if refund.amount > left.today:
            raise self._refusal(refund, "the cap of the day is reached")
        if refund.amount > left.balance:
            raise InsufficientFundsError(
                f"the vault {vault} holds less {refund.token} than is to be paid: top"
                " it up"
            )
        left.balance -= refund.amount
        left.today -= refund.amount

    def resolve_alerts(self, refunds: Iterable[Refund], alerts: Alerts) -> None:
        """Resolve the alerts of the tokens of which none of *refunds* was refused."""
        network = self.chain.network
        paid = (each for each in refunds if find_vault(each, network) is not None)
        tokens = {each.token: each.network for each in paid}
        for token in tokens.keys() - self._refused:
            alerts.resolve(Alert.VAULT_LIMIT, network=tokens[token], token=token)

    def _read(self, vault: str, refund: Refund) -> _Left:
        rules, token = VaultRules(self.chain.client, vault), refund.token_address
        state = rules.state(self.sender, token)
        if not state.is_operator:
            raise self._refusal(refund, f"{self.sender} is not one of its operators")
        amounts = self.store.unmined_amounts(refund.chain_id, vault, token)
        # What a removed operator has sent reverts: it may wait for ever.
        unmined = sum(
            amount
            for sender, amount in amounts.items()
            if sender == self.sender or rules.is_operator(sender)
        )
        caps, spent = state.caps, state.spent
        today = caps.per_day - spent - unmined
        return _Left(state.balance - unmined, today, caps.per_item, spent, state.day)

    def _refusal(self, refund: Refund, problem: str) -> VaultLimitError:
        self._refused.add(refund.token)
        if self.alerts is not None:
            report_limit(self.alerts, refund, problem)
        return VaultLimitError(f"the vault does not pay the refund now: {problem}")


def report_limit(alerts: Alerts, refund: Refund, problem: str) -> None:
    """Remind operators that a vault does not pay, which lasts until it does."""
    names = {"network": refund.network, "token": refund.token}
    alerts.remind(Alert.VAULT_LIMIT, **names, problem=problem)
