"""What the routes work with.  ``api/bootstrap.py`` fills it in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from api.auth import Authenticator
from signer.networks import Network
from signer.ports import Clock, KeyStore
from signer.refunds.explain import Explainer
from signer.refunds.service import RefundService
from signer.rotation import Rotation


@dataclass(frozen=True, slots=True)
class Readiness:
    """
    Whether requests may be sent here.

    ``checks`` maps the name of each dependency to ``ok`` or an error's code.
    """

    checks: Mapping[str, str]

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
    keys: KeyStore
    authenticator: Authenticator
    readiness: Callable[[], Readiness]
    clock: Clock
    networks: Mapping[str, Network] = field(repr=False)
