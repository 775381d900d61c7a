"""What must hold after each step; independent of what the commands print."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import urllib3

from api.cli.staging import Answer, Deployment
from api.container import Container
from signer.amounts import parse_units
from signer.config.networks import Network
from signer.errors import (
    AccessDeniedError,
    KeyNotFoundError,
    KeyUnusableError,
)
from signer.model.audit_record import Actor, Operation, Purpose
from signer.model.key import Key, KeyState, find_key
from signer.model.refund import Refund, Status


T = TypeVar("T")

_PAUSE = 0.5
"""How many seconds pass between two looks."""


class CheckFailedError(Exception):
    """A step did not have its effect."""


class Scene:
    """
    The service that a drill is played on, as its clients, ledger and nodes show it.

    *facts* are what earlier steps found; they are kept in the evidence.  *given* are
    the variables of the operator.  A check waits up to *patience* seconds.
    """

    def __init__(
        self,
        container: Container,
        deployment: Deployment,
        facts: dict[str, str],
        given: Mapping[str, str],
        patience: float,
    ) -> None:
        self.container = container
        self.deployment = deployment
        self.facts = facts
        self.given = given
        self._patience = patience

    def until(self, look: Callable[[], T], problem: str) -> T:
        """Return the first true value of *look*; fail with *problem* without one."""
        until = time.monotonic() + self._patience
        while not (found := look()):
            if time.monotonic() > until:
                raise CheckFailedError(f"{problem}, after {self._patience:g} seconds")
            time.sleep(_PAUSE)
        return found

    def ask(self, method: str, path: str) -> Answer | None:
        try:
            return self.deployment.ask(method, path, token=self.deployment.token)
        except urllib3.exceptions.HTTPError:
            return None

    @property
    def network(self) -> Network:
        """The network of the token that is refunded."""
        return self.container.networks[self.deployment.asset["network"]]

    @property
    def active(self) -> Key:
        key = self.container.store.active_key()
        require(key is not None, "no key is active")
        assert key is not None  # noqa: S101  For the type checker.
        return key

    def request(self, name: str) -> str:
        """Request the smallest refund, once however often it is repeated."""
        key = f"{self.facts['run']}-{name}"
        answer = self.deployment.pay(key, payment_session_id=f"drill-{key}")
        require(answer.is_accepted, f"a refund is refused: HTTP {answer.status}")
        self.facts[name] = str(answer.document["id"])
        self.refund(name)
        return self.facts[name]

    def refund(self, name: str) -> Refund:
        found = self.container.store.get(self.facts[name])
        require(found is not None, "the ledger lacks a refund that the URL accepted")
        assert found is not None  # noqa: S101  For the type checker.
        return found

    def confirmed(self, name: str, sender: str) -> Iterator[str]:
        """Wait until the refund *name* is paid by *sender*."""
        self.until(
            lambda: self.refund(name).status is Status.CONFIRMED,
            f"{self.facts[name]} is not confirmed",
        )
        paid_by = self.refund(name).sender
        require(paid_by == sender, f"{self.facts[name]} was paid by {paid_by}")
        yield f"{self.facts[name]} is confirmed, paid by {sender}"

    def received(self, count: int) -> Iterator[str]:
        """Compare what the recipient got since the begin with *count* refunds."""
        each = parse_units(self.deployment.smallest, self.deployment.asset["decimals"])
        got = self.balance() - int(self.facts["balance"])
        require(
            got == count * each,
            f"the recipient got {got} base units instead of {count} times {each}",
        )
        yield f"the chain shows that the recipient got {count} refunds, each once"

    def balance(self) -> int:
        """Return the base units of the token that the recipient holds."""
        asset = self.deployment.asset
        chain = self.container.chains[asset["network"]]
        return chain.token_balance(asset["address"], self.deployment.recipient)

    def nonces(self, address: str) -> str:
        """Return how many transactions *address* has sent, on each network."""
        return " ".join(
            f"{name}:{chain.client.pending_count(address)}"
            for name, chain in self.container.chains.items()
        )


def require(condition: bool, problem: str) -> None:
    if not condition:
        raise CheckFailedError(problem)


Check = Callable[[Scene], Iterator[str]]
"""Yields what holds; raises ``CheckFailedError`` for what does not."""


def begin(scene: Scene) -> Iterator[str]:
    """Require that the service pays, and is that of the ledger."""
    store, facts = scene.container.store, scene.facts
    is_stopped = any(each.in_force for each in store.stops())
    require(not is_stopped, "signing is stopped: resume it first")
    facts["old_address"] = scene.active.address
    facts.setdefault("balance", str(scene.balance()))
    scene.request("before")
    yield from scene.confirmed("before", facts["old_address"])


def _cannot_sign(scene: Scene) -> Iterator[str]:
    address = scene.facts["old_address"]
    key = find_key(scene.container.store.keys(), address)
    purpose = Purpose(Operation.SELF_TEST, actor="drill")

    def refused() -> str:
        try:
            scene.container.signers.open(key).self_test(purpose)  # type: ignore[arg-type]
        except (AccessDeniedError, KeyNotFoundError, KeyUnusableError) as e:
            return e.code
        return ""

    code = scene.until(refused, f"the key of {address} still signs")
    yield f"the device refuses to sign with the key of {address}: {code}"


def _is_stopped(scene: Scene) -> Iterator[str]:
    address = scene.facts["old_address"]
    scene.request("stopped")
    scene.until(
        lambda: scene.refund("stopped").moving.blocked_by == "signing-stopped",
        "a new refund is not held up by the stop",
    )
    scene.facts["nonces"] = scene.nonces(address)
    yield f"{scene.facts['stopped']} is accepted, and waits for signing-stopped"


def _is_no_operator(scene: Scene) -> Iterator[str]:
    from signer.chain.vault_rules import VaultRules

    address = scene.facts["old_address"]
    for name, chain in scene.container.chains.items():
        if chain.network.vault is not None:
            rules = VaultRules(chain.client, chain.network.vault)
            scene.until(
                lambda rules=rules: not rules.is_operator(address),  # type: ignore[misc]
                f"{address} may still pay from the vault of {name}",
            )
            yield f"{address} may not pay from the vault of {name}"


def _has_funds(scene: Scene) -> Iterator[str]:
    address = _new_address(scene)
    for name, chain in scene.container.chains.items():
        held = [chain.client.balance(address)]
        if chain.network.vault is None:
            tokens = chain.network.tokens.values()
            held += [chain.token_balance(each.address, address) for each in tokens]
        require(all(held), f"{address} lacks coin or tokens on {name}")
        yield f"{address} has coin and tokens on {name}"


def _new_address(scene: Scene) -> str:
    """Return the address of the new key, after a rehearsal of the rotation."""
    from signer.keys.rotation import RotationOptions

    old, key_id = scene.facts["old_address"], scene.given["NEW_KEY_ID"]
    options = RotationOptions(
        dry_run=True, compromised=True, active_address=old, without_funds=True
    )
    result = scene.container.rotation.rotate(key_id, Actor("drill"), options)
    scene.facts["new_address"] = result.key.address
    return result.key.address


def _is_revoked(scene: Scene) -> Iterator[str]:
    old, new = scene.facts["old_address"], scene.active.address
    key = find_key(scene.container.store.keys(), old)
    state = None if key is None else key.state
    require(state is KeyState.BLOCKED, f"the key of {old} is {state}, not blocked")
    require(new == scene.facts["new_address"], f"the active key is that of {new}")
    yield f"the key of {old} is blocked, and that of {new} is active"


def _pays_from_new(scene: Scene) -> Iterator[str]:
    store, facts = scene.container.store, scene.facts
    yield from scene.confirmed("stopped", facts["new_address"])
    yield from scene.received(2)
    sent = scene.nonces(facts["old_address"])
    require(sent == facts["nonces"], "the old address has sent more since the stop")
    stranded = store.stranded(facts["old_address"], 1000)
    require(not stranded, f"refunds wait for the old key: {' '.join(stranded)}")
    yield "nothing left the old address since the stop, and no refund waits for it"


CHECKS: Mapping[str, Mapping[str, Check]] = {
    "compromise": {
        "begin": begin,
        "disable-key": _cannot_sign,
        "stop": _is_stopped,
        "remove-from-vaults": _is_no_operator,
        "fund": _has_funds,
        "rotate": _is_revoked,
        "resume": _pays_from_new,
    },
}
"""By drill and step.  A step without one is known to the person only."""

VARIABLES: Mapping[str, Mapping[str, str]] = {
    "compromise": {"NEW_KEY_ID": "the key to rotate to"}
}
"""What the operator gives a drill with ``--set``."""
