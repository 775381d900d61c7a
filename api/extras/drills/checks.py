"""What must hold after each step; independent of what the commands print."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TypeVar

import urllib3

from api.cli.staging import Deployment
from api.container import Container
from signer.amounts import parse_units
from signer.chain.vault import Item, VaultRules, encode_pay
from signer.errors import (
    AccessDeniedError,
    KeyNotFoundError,
    KeyUnusableError,
    SigningError,
)
from signer.model.audit_record import Actor, Operation, Purpose
from signer.model.key import WATCHED, Key, KeyState, find_key
from signer.model.refund import Refund, Status
from signer.model.worker_row import find_running


T = TypeVar("T")

_SELF_TEST = Purpose(Operation.SELF_TEST, actor="drill")

_PAUSE = 0.5
"""How many seconds pass between two looks."""


class CheckFailedError(Exception):
    """A step did not have its effect."""


@dataclass(eq=False, repr=False)
class Scene:
    """
    The service that a drill is played on, as its clients, ledger and nodes show it.

    *facts* are what earlier steps found; they are kept in the evidence.  *given* are
    the variables of the operator.  A check waits up to *patience* seconds.
    """

    container: Container
    deployment: Deployment
    facts: dict[str, str]
    given: Mapping[str, str]
    patience: float

    def until(self, look: Callable[[], T], problem: str) -> T:
        """Return the first true value of *look*; fail with *problem* without one."""
        until = time.monotonic() + self.patience
        while not (found := look()):
            if time.monotonic() > until:
                raise CheckFailedError(f"{problem}, after {self.patience:g} seconds")
            time.sleep(_PAUSE)
        return found

    @property
    def active(self) -> Key:
        key = self.container.store.active_key()
        if key is None:
            raise CheckFailedError("no key is active")
        return key

    @property
    def old_key(self) -> Key:
        """The key of the begin."""
        key = find_key(self.container.store.keys(), self.facts["old_address"])
        if key is None:
            raise CheckFailedError("the ring lacks the key of the begin")
        return key

    def until_not(self, look: Callable[[], object], problem: str) -> None:
        self.until(lambda: not look(), problem)

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
        if found is None:
            raise CheckFailedError("the ledger lacks a refund that the URL accepted")
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
    facts["balance"] = facts.get("balance") or str(scene.balance())
    yield f"the recipient holds {facts['balance']} base units"
    scene.request("before")
    yield from scene.confirmed("before", facts["old_address"])


def _cannot_sign(scene: Scene) -> Iterator[str]:
    key = scene.old_key

    def refused() -> str:
        try:
            scene.container.signers.open(key).self_test(_SELF_TEST)
        except (AccessDeniedError, KeyNotFoundError, KeyUnusableError) as e:
            return e.code
        return ""

    code = scene.until(refused, f"the key of {key.address} still signs")
    yield f"the device refuses to sign with the key of {key.address}: {code}"


def _is_stopped(scene: Scene) -> Iterator[str]:
    address = scene.facts["old_address"]
    scene.request("stopped")
    scene.until(
        lambda: scene.refund("stopped").moving.blocked_by == "signing-stopped",
        "a new refund is not held up by the stop",
    )
    scene.facts["nonces"] = scene.nonces(address)
    yield f"{scene.facts['stopped']} is accepted, and waits for signing-stopped"


def _vaults(scene: Scene) -> Mapping[str, VaultRules]:
    return {
        name: VaultRules(chain.client, chain.network.vault)
        for name, chain in scene.container.chains.items()
        if chain.network.vault is not None
    }


def _is_no_operator(scene: Scene) -> Iterator[str]:
    for name, rules in _vaults(scene).items():
        may_pay = partial(_thief_may_pay, scene, rules)
        scene.until_not(
            may_pay, f"a thief of the key can still use the vault of {name}"
        )
        yield f"the vault of {name} refuses a payment of {scene.facts['old_address']}"


def _thief_may_pay(scene: Scene, rules: VaultRules) -> bool:
    """Simulate what a thief would send, which needs no key."""
    token, sender = scene.deployment.asset["address"], scene.facts["old_address"]
    payment = encode_pay(token, [Item(scene.deployment.recipient, 1, bytes(16))])
    return rules.is_operator(sender) or rules.permits(sender, payment)


def _begin_at_vault(scene: Scene) -> Iterator[str]:
    yield from begin(scene)
    scene.facts["network"] = name = scene.deployment.asset["network"]
    rules = _vaults(scene).get(name)
    if rules is None:
        raise CheckFailedError(f"{name} has no vault")
    require(_thief_may_pay(scene, rules), "the active key may not pay")
    yield f"a thief of the key could pay from the vault of {name}"


def _caps_are_lower(scene: Scene) -> Iterator[str]:
    asset, given = scene.deployment.asset, scene.given["CAPS"]
    symbol, _, caps = given.partition("=")
    require(symbol == asset["token"], f"CAPS is not of {asset['token']}")
    item, _, day = caps.partition("/")
    wanted = [parse_units(each, asset["decimals"]) for each in (item, day)]
    rules = _vaults(scene)[asset["network"]]

    def are_set() -> bool:
        found = rules.caps(asset["address"])
        return [found.per_item, found.per_day] == wanted

    scene.until(are_set, f"the caps are not {caps}")
    yield f"the vault pays at most {caps} an item and a day"


def _pays_from_vault(scene: Scene) -> Iterator[str]:
    scene.facts["new_address"] = scene.active.address
    yield from _is_revoked(scene)
    scene.request("after")
    yield from scene.confirmed("after", scene.facts["new_address"])
    yield from scene.received(2)


def _region_fails(scene: Scene) -> Iterator[str]:
    yield from _cannot_sign(scene)
    scene.facts["failed"] = scene.container.store.now().isoformat()
    yield f"{scene.request('waiting')} is accepted, and waits"


def _signs_elsewhere(scene: Scene) -> Iterator[str]:
    facts, store = scene.facts, scene.container.store
    yield from scene.confirmed("waiting", facts["old_address"])
    yield from scene.received(2)
    signed = next(
        each.at
        for each in store.history(facts["waiting"])
        if each.status not in {Status.QUEUED, Status.RESERVED}
    )
    seconds = (signed - datetime.fromisoformat(facts["failed"])).total_seconds()
    yield f"the first signature came {seconds:.1f} seconds after the failure"


def _all_sign(scene: Scene) -> Iterator[str]:
    ring = scene.container.store.keys()
    for key in [each for each in ring if each.state in WATCHED]:
        try:
            scene.container.signers.open(key).self_test(_SELF_TEST)
        except SigningError as e:
            raise CheckFailedError(f"the key of {key.address} does not sign") from e
        yield f"the key of {key.address} signs"


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
    old, new = scene.old_key, scene.active.address
    is_blocked = old.state is KeyState.BLOCKED
    require(is_blocked, f"the key of {old.address} is {old.state}, not blocked")
    require(new == scene.facts["new_address"], f"the active key is that of {new}")
    yield f"the key of {old.address} is blocked, and that of {new} is active"


def _pays_from_new(scene: Scene) -> Iterator[str]:
    store, facts = scene.container.store, scene.facts
    yield from scene.confirmed("stopped", facts["new_address"])
    yield from scene.received(2)
    sent = scene.nonces(facts["old_address"])
    require(sent == facts["nonces"], "the old address has sent more since the stop")
    stranded = store.stranded(facts["old_address"], 1000)
    require(not stranded, f"refunds wait for the old key: {' '.join(stranded)}")
    yield "nothing left the old address since the stop, and no refund waits for it"


def _pays_after_backup(scene: Scene) -> Iterator[str]:
    scene.request("lost")
    yield from scene.confirmed("lost", scene.facts["old_address"])


def _is_down(scene: Scene) -> Iterator[str]:
    store = scene.container.store
    scene.until_not(lambda: _is_ready(scene), "the API still answers")
    scene.until_not(
        lambda: find_running(store.workers(), store.now()),
        "a worker still runs, which could pay what the backup does not know",
    )
    yield "the API does not answer, and no worker runs"


def _is_ready(scene: Scene) -> bool:
    try:
        return scene.deployment.ask("GET", "/readyz").is_accepted
    except urllib3.exceptions.HTTPError:
        return False


def _is_put_back(scene: Scene) -> Iterator[str]:
    store, facts = scene.container.store, scene.facts
    require(
        store.get(facts["before"]) is not None, "the backup is older than the drill"
    )
    require(store.get(facts["lost"]) is None, "the ledger is not that of the backup")
    yield f"the ledger has {facts['before']}, and lacks {facts['lost']}"


def _has_lost(scene: Scene) -> Iterator[str]:
    yield f"the ledger has {scene.refund('lost').id} again"


def _answers(scene: Scene) -> Iterator[str]:
    scene.until(lambda: _is_ready(scene), "the service is not ready")
    yield "the service is ready"


def _paid_once(scene: Scene) -> Iterator[str]:
    facts, lost = scene.facts, scene.facts["lost"]
    require(scene.request("lost") == lost, "a repeated request made another refund")
    yield from scene.confirmed("lost", facts["old_address"])
    scene.request("after")
    yield from scene.confirmed("after", facts["old_address"])
    yield from scene.received(3)


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
    "failover": {
        "begin": begin,
        "fail-region": _region_fails,
        "fail-over": _signs_elsewhere,
        "other-keys": _all_sign,
    },
    "guardian": {
        "begin": _begin_at_vault,
        "sign-caps": _caps_are_lower,
        "sign-removal": _is_no_operator,
        "rotate": _pays_from_vault,
    },
    "restore": {
        "begin": begin,
        "back-up": _pays_after_backup,
        "stop-service": _is_down,
        "put-back": _is_put_back,
        "restore": _has_lost,
        "start-service": _answers,
        "tell-gateway": _paid_once,
    },
}
"""By drill and step.  A step without one is known to the person only."""

VARIABLES: Mapping[str, Mapping[str, str]] = {
    "compromise": {"NEW_KEY_ID": "the key to rotate to"},
    "failover": {"REPLICA": "the ARN of the key in the other region"},
    "guardian": {
        "NEW_KEY_ID": "the standby key",
        "CAPS": "lower caps, as TOKEN=ITEM/DAY",
    },
    "restore": {"LOG": "the file of the log"},
}
"""What the operator gives a drill with ``--set``."""
