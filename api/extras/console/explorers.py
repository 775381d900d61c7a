"""Links to the block explorers that the networks file names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from signer.config.networks import Network


_HEX = re.compile(r"0x[0-9a-fA-F]{1,64}")


@dataclass(frozen=True, slots=True)
class Explorers:
    """
    The explorers of all networks, by chain id.

    A link is None if the network has none.  The last part comes from the database, so
    only hex digits may get into a link.
    """

    addresses: Mapping[int, str]

    @classmethod
    def of(cls, networks: Mapping[str, Network]) -> Self:
        """Return the explorers of *networks*."""
        return cls(
            {
                network.chain_id: network.explorer
                for network in networks.values()
                if network.explorer is not None
            }
        )

    def transaction(self, chain_id: int, tx_hash: str) -> str | None:
        """Return the page of a transaction."""
        return self._link(chain_id, "tx", tx_hash)

    def account(self, chain_id: int, address: str) -> str | None:
        """Return the page of an address."""
        return self._link(chain_id, "address", address)

    def token(self, chain_id: int, address: str) -> str | None:
        """Return the page of a token's contract."""
        return self._link(chain_id, "token", address)

    def _link(self, chain_id: int, kind: str, name: str) -> str | None:
        base = self.addresses.get(chain_id)
        if base is None or not _HEX.fullmatch(name):
            return None
        return f"{base}/{kind}/{name}"
