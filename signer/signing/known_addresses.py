"""What a service knows about addresses, asked anew for each signature."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from signer.policy.facts import NO_KEYS, OwnKeys


@dataclass(frozen=True, slots=True)
class KnownAddresses:
    """
    Functions of a service; a program that only has an account knows nothing.

    *own_keys* returns the addresses of the service's keys, and *denied* those of the
    deny list, in lower case.  *is_service_wallet* returns whether the service pays from
    an address on a chain, whose id is 0 for every chain.
    """

    own_keys: Callable[[], OwnKeys] = lambda: NO_KEYS
    denied: Callable[[], Collection[str]] = lambda: ()
    is_service_wallet: Callable[[str, int], bool] = lambda *_: False


NOTHING_KNOWN = KnownAddresses()
