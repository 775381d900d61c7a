"""What the routes work with.  ``api/bootstrap.py`` fills it in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from api.auth.authorization import AccessControl
from api.auth.jwt_verifier import JWTVerifier
from api.health.readiness import Readiness
from api.request_context import Network as IPNetwork
from signer.config.networks import Network
from signer.keys.failover import Failover
from signer.keys.rotation import Rotation
from signer.ports import Clock, Ledger
from signer.refunds.explain import Explainer
from signer.refunds.service import RefundService


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
    failover: Failover
    ledger: Ledger = field(repr=False)
    authenticator: JWTVerifier
    access: AccessControl
    readiness: Callable[[], Readiness]
    clock: Clock
    networks: Mapping[str, Network] = field(repr=False)
    metrics_open: bool = False
    proxies: Sequence[IPNetwork] = ()
