"""The options and the result of a key rotation."""

from collections.abc import Sequence
from dataclasses import dataclass

from signer.addresses import shown_address
from signer.errors import HotWalletError, NewKeyUnhealthyError
from signer.keys.admin_audit import Facts
from signer.keys.balances import AddressBalance
from signer.model.key import Key


AWAITING_FUNDS = "awaiting-funds"
WOULD_AWAIT_FUNDS = "would-await-funds"

NEW_ADDRESS = "the address has changed: tell whoever funds the wallet or watches it"
ALREADY = "the key was the active one already"
UNFUNDED = (
    "the new address lacks funds, which a compromised key does not wait for: refunds"
    " wait until it has them"
)


@dataclass(frozen=True, slots=True)
class RotationOptions:
    """
    How a rotation is to be done.

    With *rehearse* the new key proves itself, and nothing is changed.  With
    *compromised* the old key signs nothing at all any more, instead of finishing what
    it began.  *active_address* is the key that is to be replaced, as the administrator
    believes: where another one is active, nothing is done.  Who *insists* asks again by
    himself where a refusal may pass, and no alert is sounded for that.
    """

    rehearse: bool = False
    compromised: bool = False
    active_address: str | None = None
    insists: bool = False

    def facts(self) -> Facts:
        """Return what the audit says of them."""
        facts: Facts = {
            "rehearsal": self.rehearse,
            "compromised": self.compromised,
        }
        if self.active_address is not None:
            facts["active_address"] = shown_address(self.active_address)
        return facts

    def are_alarmed_by(self, error: HotWalletError) -> bool:
        """Say whether somebody else must know that *error* was the answer."""
        if self.rehearse or not isinstance(error, NewKeyUnhealthyError):
            return False
        return not (self.insists and error.may_pass)


@dataclass(frozen=True, slots=True)
class RotationResult:
    """
    What became of a rotation.

    ``status`` is ``rotated`` or ``awaiting-funds``; for a rehearsal, ``would-rotate``
    or ``would-await-funds``.  ``stranded`` are open refunds that a key which was given
    up has signed: they may be mined yet, and are for a person to look at.
    """

    status: str
    key: Key
    previous: Key | None
    holdings: Sequence[AddressBalance]
    warnings: Sequence[str]
    stranded: Sequence[str] = ()


def told(
    status: str, key: Key, previous: Key | None, holdings: Sequence[AddressBalance]
) -> RotationResult:
    """Return the answer that warns of what *holdings* lack."""
    found = [warning for holding in holdings for warning in holding.warnings()]
    return RotationResult(status, key, previous, holdings, (NEW_ADDRESS, *found))
