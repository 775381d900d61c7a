"""What a rotation sees of the ring, and whether it is possible."""

from collections.abc import Sequence
from dataclasses import dataclass

from signer.errors import ConflictError
from signer.model.key import Key, KeyState, find_active_key, find_key


@dataclass(frozen=True, slots=True)
class RingView:
    """One snapshot of the *ring*, and the *candidate* that is to become active."""

    candidate: Key
    ring: Sequence[Key]

    @property
    def active(self) -> Key | None:
        return find_active_key(self.ring)

    @property
    def is_done(self) -> bool:
        """Whether the candidate is the active key."""
        active = self.active
        return active is not None and active.address == self.candidate.address

    @property
    def replaced(self) -> Key | None:
        """The key that the candidate replaces, or has replaced."""
        if not self.is_done:
            return self.active
        served = [key for key in self.ring if key.epoch and key != self.active]
        return served[0] if served else None

    def require_possible(self, address: str | None) -> None:
        """
        Check that the candidate may replace, or has replaced, the key with *address*.

        None stands for the active key.

        Raises:
            ConflictError: The candidate is blocked, or the ring has it under another
                id; or another key than that with *address* would be replaced.
        """
        known = find_key(self.ring, self.candidate.address)
        if known is not None and known.state is KeyState.BLOCKED:
            raise ConflictError("the key was revoked as compromised")
        if known is not None and known.key_id != self.candidate.key_id:
            raise ConflictError(
                "the ring has this key under another id: use `hotwallet keys failover`"
            )
        if address is not None:
            self._require_replaced(address)

    def _require_replaced(self, address: str) -> None:
        if self.replaced is not None and self.replaced.address == address:
            return
        if self.candidate.address == address:
            raise ConflictError("the new key is the key that it would replace")
        active = "no key" if self.active is None else self.active.address
        raise ConflictError(
            f"nothing was changed: {active} is active, and the new key would not"
            f" replace {address}. Run `hotwallet keys list` to see who rotated and"
            " when; then repeat the request with the right address, or revoke a former"
            " key with `hotwallet keys revoke`"
        )
