"""What is asked of a rotation, how the ring stands to it, and what is answered."""

from collections.abc import Sequence
from dataclasses import dataclass

from signer.addresses import shown_address
from signer.errors import ConflictError, HotWalletError, NewKeyUnhealthyError
from signer.keys.admin_audit import Facts
from signer.keys.balances import AddressBalance
from signer.model.key import Key, KeyState


AWAITING_FUNDS = "awaiting-funds"
WOULD_AWAIT_FUNDS = "would-await-funds"

NEW_ADDRESS = "the address has changed: tell whoever funds the wallet or watches it"
ALREADY = "the key was the active one already"
UNFUNDED = (
    "the new address lacks funds, which a compromised key does not wait for: refunds"
    " wait until it has them"
)

_NONE_BEFORE = (
    "it is the only key that ever served: name the new key, and not the compromised one"
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


@dataclass(frozen=True, slots=True)
class RingView:
    """The ring at one moment, seen from a key that somebody *wanted* to be active."""

    wanted: Key
    ring: Sequence[Key]

    @property
    def active(self) -> Key | None:
        """The key that signs; None before the first one was enrolled."""
        return next((key for key in self.ring if key.state is KeyState.ACTIVE), None)

    @property
    def is_done(self) -> bool:
        """Whether the wanted key is the active one."""
        active = self.active
        return active is not None and active.address == self.wanted.address

    @property
    def replaced(self) -> Key | None:
        """The key that the wanted one takes over from, or took over from."""
        if not self.is_done:
            return self.active
        served = [key for key in self.ring if key.epoch and key != self.active]
        return served[0] if served else None

    def require_possible(self, address: str | None, *, compromised: bool) -> None:
        """
        Make sure that the wanted key may take over, or took over, from *address*.

        None means that it is not said which key is to be replaced.

        Raises:
            ConflictError: It was given up, or the ring has it in another place; it is
                another key's turn; or there is none to call *compromised*.
        """
        self._require_usable()
        if address is not None:
            self._require_replaced(address)
        if compromised and self.is_done and self.replaced is None:
            raise ConflictError(_NONE_BEFORE)

    def _require_usable(self) -> None:
        known = [key for key in self.ring if key.address == self.wanted.address]
        if known and known[0].state is KeyState.BLOCKED:
            raise ConflictError("the key was given up as compromised")
        if known and known[0].key_id != self.wanted.key_id:
            raise ConflictError("the ring has this key in another place: use relocate")

    def _require_replaced(self, address: str) -> None:
        if self.replaced is not None and self.replaced.address == address:
            return
        if self.wanted.address == address:
            raise ConflictError("the new key is the very one that is to be replaced")
        active = "no key" if self.active is None else self.active.address
        raise ConflictError(
            f"nothing was changed: {active} is active, and the new key would not"
            f" replace {address}. See who rotated, and when (keys list); ask again with"
            " the address that you mean, or give up a former key by its address"
            " (keys revoke)"
        )


def told(
    status: str, key: Key, previous: Key | None, holdings: Sequence[AddressBalance]
) -> RotationResult:
    """Return the answer that warns of what *holdings* lack."""
    found = [warning for holding in holdings for warning in holding.warnings()]
    return RotationResult(status, key, previous, holdings, (NEW_ADDRESS, *found))
