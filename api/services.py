"""What the routes work with.  ``api/bootstrap.py`` fills it in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from api.access import Access
from api.auth import Authenticator
from api.context import Network as IPNetwork
from signer.networks import Network
from signer.ports import Clock, Ledger
from signer.refunds.explain import Explainer
from signer.refunds.service import RefundService
from signer.relocation import Relocation
from signer.rotation import Rotation


@dataclass(frozen=True, slots=True)
class Readiness:
    """
    Whether requests may be sent here.

    ``checks`` maps the name of each dependency to ``ok`` or an error's code.
    ``address`` is the key's that signs as the ring has it, None while nobody knows;
    ``epoch`` counts the rotations: two processes that differ in it for longer than a
    few seconds do not share a ledger.
    """

    checks: Mapping[str, str]
    address: str | None = None
    epoch: int | None = None

    @property
    def ready(self) -> bool:
        """Whether every check passed."""
        return all(answer == "ok" for answer in self.checks.values())


@dataclass(frozen=True, slots=True)
class Services:
    """
    The collaborators of the API, each made once per process, after the fork.

    ``readiness`` is asked by anyone, without a token: it must be cheap, and it
    answers rather than raises.
    """

    refunds: RefundService
    explainer: Explainer
    rotation: Rotation
    relocation: Relocation
    ledger: Ledger = field(repr=False)
    authenticator: Authenticator
    access: Access
    readiness: Callable[[], Readiness]
    clock: Clock
    networks: Mapping[str, Network] = field(repr=False)
    metrics_open: bool = False
    proxies: Sequence[IPNetwork] = ()
