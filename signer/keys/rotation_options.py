"""The options and the result of a key rotation."""

from collections.abc import Sequence
from dataclasses import dataclass

from signer.addresses import redact_address
from signer.errors import (
    HotWalletError,
    InvalidInputError,
    NewKeyNotFoundError,
    NewKeyUnhealthyError,
)
from signer.keys.admin_audit import Facts
from signer.keys.balances import AddressBalance
from signer.model.key import Key


AWAITING_FUNDS = "awaiting-funds"
WOULD_AWAIT_FUNDS = "would-await-funds"

ALREADY = "the key was already active"

_NEW_ADDRESS = (
    "the address has changed: inform everyone who funds or monitors the wallet"
)


@dataclass(frozen=True, slots=True)
class RotationOptions:
    """
    Options of a rotation.

    ``dry_run`` self-tests the new key and changes nothing.  ``compromised`` blocks the
    old key, which then signs nothing at all; without it, the old key finishes what it
    began.  ``active_address`` is the address of the key to replace: if another key is
    active, the rotation is refused.  ``compromised`` requires it, and funds on the new
    address unless ``without_funds``: otherwise one administrator could leave all funds
    on an address whose key is blocked.  ``will_retry`` means that the caller retries a
    refusal that may be temporary, so that such a refusal raises no alert.
    """

    dry_run: bool = False
    compromised: bool = False
    active_address: str | None = None
    without_funds: bool = False
    will_retry: bool = False

    def facts(self) -> Facts:
        facts: Facts = {"rehearsal": self.dry_run, "compromised": self.compromised}
        if self.active_address is not None:
            facts["active_address"] = redact_address(self.active_address)
        if self.without_funds:
            facts["without_funds"] = True
        return facts

    def check(self) -> None:
        """
        Check that the options fit together.

        Raises:
            InvalidInputError: ``compromised`` names no address, or ``without_funds`` is
                used without it.
        """
        if self.compromised and self.active_address is None:
            raise InvalidInputError(
                "is required with compromised: the address of the key to revoke",
                field="active_address",
            )
        if self.without_funds and not self.compromised:
            raise InvalidInputError(
                "is for compromised keys only", field="without_funds"
            )

    def should_alert(self, error: HotWalletError) -> bool:
        if self.dry_run or not isinstance(error, NewKeyUnhealthyError):
            return False
        if isinstance(error, NewKeyNotFoundError):
            return False  # Most likely a typo, which only the caller must know.
        return not (self.will_retry and error.may_pass)


@dataclass(frozen=True, slots=True)
class RotationResult:
    """
    The outcome of a rotation.

    ``status`` is ``rotated`` or ``awaiting-funds``, and for a dry run ``would-rotate``
    or ``would-await-funds``.  ``stranded`` has the ids of open refunds that a revoked
    key has signed: they may still be mined, so a person must check them.
    """

    status: str
    key: Key
    previous: Key | None
    holdings: Sequence[AddressBalance]
    warnings: Sequence[str]
    stranded: Sequence[str] = ()


def build_result(
    status: str, key: Key, previous: Key | None, holdings: Sequence[AddressBalance]
) -> RotationResult:
    """Return the result that warns of the new address and of missing *holdings*."""
    lacking = [warning for balance in holdings for warning in balance.warnings()]
    return RotationResult(status, key, previous, holdings, (_NEW_ADDRESS, *lacking))
