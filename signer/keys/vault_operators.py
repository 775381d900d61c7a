"""
Which keys may pay from the vaults of the networks.

A key becomes active only if it is an operator of each vault.  After a revocation the
guardian removes the key from each of them: until then its thief can pay.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from signer.chain.chain import Chain
from signer.chain.vault import VaultRules, change_operator
from signer.deadline import Deadlines
from signer.errors import (
    ChainUnavailableError,
    HotWalletError,
    Refusal,
    VaultOperatorMissingError,
)
from signer.model.key import Key, KeyState


_TIMEOUT_SECONDS = 3.0
"""For all networks together."""


@dataclass(frozen=True, slots=True)
class RevokedOperator:
    """A revoked key that the vault of *network* lets pay, or may: nodes are down."""

    network: str
    address: str
    is_known: bool

    @property
    def problem(self) -> Refusal:
        """What is wrong, and what to do."""
        state = "may still pay"
        if not self.is_known:
            state = "may still be able to pay (no node answers)"
        command = change_operator("remove", self.network, self.address)
        return Refusal(
            "vault-operator-revoked",
            f"the revoked key of {self.address} {state} from the vault of"
            f" {self.network}; its guardian removes it: `{command}`",
        )


class VaultOperators:
    """Asks the vaults of all networks concurrently; a network may have none."""

    def __init__(self, chains: Mapping[str, Chain], deadlines: Deadlines) -> None:
        self._chains = chains
        self._deadlines = deadlines

    def require(self, address: str) -> None:
        """
        Require that the key of *address* may pay from each vault.

        Raises:
            VaultOperatorMissingError: It may not; the message has what to do.
            ChainUnavailableError: The nodes of a network do not answer.
        """
        answers = self._ask([address])
        missing = [network for (network, _), may in answers.items() if may is False]
        if missing:
            vaults = ", ".join(
                f"{name} ({self._chains[name].network.vault})" for name in missing
            )
            commands = "; ".join(
                change_operator("add", name, address) for name in missing
            )
            raise VaultOperatorMissingError(
                f"the key of {address} may not pay from the vault of {vaults}: let the"
                f" guardian add it, and repeat the request after the delay. Run:"
                f" {commands}"
            )
        unknown = [network for (network, _), may in answers.items() if may is None]
        if unknown:
            raise ChainUnavailableError(
                f"the nodes of {', '.join(unknown)} do not say whether the key may pay"
                " from the vault"
            )

    def revoked(self, ring: Sequence[Key]) -> Sequence[RevokedOperator]:
        """Return the revoked keys of *ring* that may pay, or of which it is unknown."""
        addresses = [key.address for key in ring if key.state is KeyState.BLOCKED]
        return [
            RevokedOperator(network, address, is_known=may is not None)
            for (network, address), may in self._ask(addresses).items()
            if may is not False
        ]

    def _ask(self, addresses: Sequence[str]) -> Mapping[tuple[str, str], bool | None]:
        """Return whether each key may pay, by network and address; None: unknown."""
        started = {
            (name, address): self._deadlines.start(
                ask, name=f"vault-{name}", subject=address
            )
            for name, address, ask in self._questions(addresses)
        }
        until = time.monotonic() + _TIMEOUT_SECONDS
        return {
            asked: pending.result() if pending.wait(until - time.monotonic()) else None
            for asked, pending in started.items()
        }

    def _questions(
        self, addresses: Sequence[str]
    ) -> Iterator[tuple[str, str, Callable[[], bool | None]]]:
        for name, chain in self._chains.items():
            if chain.network.vault is not None:
                rules = VaultRules(chain.client, chain.network.vault)
                for address in addresses:
                    yield name, address, partial(_may_pay, rules, address)


def _may_pay(rules: VaultRules, address: str) -> bool | None:
    try:
        return rules.is_vault() and rules.is_operator(address)
    except HotWalletError:
        return None
