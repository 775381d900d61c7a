"""A month of a service, in which an administrator's changes are planted and noted."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from falcon.testing import Result

from api.actions.catalogue import ACTIONS
from api.bootstrap import record_start
from api.extras.restore.planner import RestorePlanner
from api.extras.restore.restorer import open_restorer
from signer.alerts import Alert
from signer.audit.actions import AuditAction
from signer.audit.export import export
from signer.audit.sealer import Sealer
from signer.config.tenants import TenantRegistry
from signer.errors import ApprovalRequiredError
from signer.model.audit_record import Actor, Operation, Record
from signer.model.key import KeyState
from signer.model.refund import RefundRequest
from signer.redact import key_prefix
from tests.api.administrators import authorized
from tests.api.service import BODY
from tests.extras.console.worlds import SHOP, World
from tests.support.audit import ORIGIN
from tests.support.ledgers import ROW_MACS
from tests.support.ring import ELSEWHERE, NEW, OLD, OTHER
from tests.unit.signer.audit.sealers import sealer


START = datetime(2026, 12, 1, tzinfo=UTC)
END = datetime(2027, 1, 1, tzinfo=UTC)

_STEP = timedelta(hours=2, minutes=28)
"""Between two changes, so that 300 need almost a month."""

_ACTIONS = {each.name: each for each in ACTIONS}

_FACTS = {
    "signing-stop": "asset",
    "signing-resume": "asset",
    "tenant-block": "tenant",
    "tenant-unblock": "tenant",
    "key-rotate": "key",
    "key-failover": "key",
    "key-revoke": "key_address",
    "key-reinstate": "key_address",
    "nonce-repair": "network",
    "webhook-replay": "tenant",
    "admin-access": "route",
    "configuration-loaded": "process",
    "configuration-changed": "changes",
    "limits-accept": "changes",
    "limits-raise": "changes",
    "alert": "code",
}
"""The detail of a record that is compared, besides event, actor, reason and outcome."""

Change = tuple[datetime, str, str, str, str, str]
"""Time, event, actor, outcome, a detail, and who approved it."""


def seen(line: Mapping[str, Any]) -> Change:
    """Return what a line of a report says, in the form of a planted change."""
    record = line["record"]
    event, details = record["event"], record["details"]
    names = [each for each in _FACTS if event.startswith(each)]
    fact = details.get(_FACTS[names[0]]) if names else None
    if isinstance(fact, dict):
        fact = " ".join(sorted(fact))
    granted = line.get("approval", {}).get("granted", [])
    return (
        datetime.fromisoformat(record["timestamp"]),
        event,
        record["actor"],
        record["outcome"],
        str(fact or ""),
        " ".join(each["by"] for each in granted),
    )


@dataclass
class Month:
    """Plants changes, and notes each as ``seen`` would return it."""

    world: World
    seed: int
    changes: int = 0
    forged: list[int] = field(default_factory=list)
    planted: list[Change] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._last: dict[str, dict[str, str]] = {}
        self._rule = 0
        self.sealer: Sealer = sealer(self.world.store, self.world.clock)  # type: ignore[arg-type]
        self.world.clock.now = START - timedelta(days=1)
        for process in ("worker", "api"):
            self._start(process)
        self.planted.clear()
        self.sealer.work()

    def live(self, count: int) -> None:
        """Plant *count* changes, evenly, with refunds between them."""
        kinds = [
            value for name, value in vars(Month).items() if name.startswith("_plant")
        ]
        for _ in range(count):
            self.changes += 1
            self.world.clock.now = START + self.changes * _STEP
            for plant in self._random.sample(kinds, len(kinds)):
                if plant(self) is not False:
                    break
            if self.changes % 3 == 0:
                self._pay()
            self.sealer.work()

    def close(self) -> None:
        """Let the month end, with a checkpoint after it."""
        self.world.clock.now = END + timedelta(hours=1)
        audit = self.world.container.audit
        operation, actor = Operation.ADMINISTRATION, Actor("doctor")
        audit.write(audit.request(AuditAction.DOCTOR_RUN, operation, actor))
        self.sealer.work()

    def forge(self) -> None:
        """Write a record as another program does, without a MAC."""
        stem = AuditAction.KEY_REVOKE.event_for("success")
        self.forged.append(len(self.planted))
        forged = Record.of({"event": stem, "number": self.forged[-1]}, START)
        insert = "INSERT INTO audit_records (id, body) VALUES (?, ?)"
        self.world.store._database.run(
            lambda c: c.exec_driver_sql(insert, (forged.id, forged.body))
        )
        self._wait()
        self._note("audit-records-forged", "sealer", outcome="forged")
        self.sealer.work()

    def write(self, event: str, at: datetime) -> None:
        """Write a record of the service with the time *at*."""
        body = {"event": event, "timestamp": at.isoformat(timespec="microseconds")}
        record = Record.of({**body, "actor": "later", "details": {}}, at)
        self.world.store.append([ROW_MACS.sealed(record)])

    def exported(self) -> bytes:
        return b"".join(export(self.world.store, ORIGIN))

    def _note(
        self,
        event: str,
        actor: str = "token:alice",
        fact: object = "",
        *,
        outcome: str = "success",
        by: str = "",
    ) -> None:
        now = self.world.clock()
        self.planted.append((now, event, actor, outcome, str(fact or ""), by))

    def _wait(self) -> None:
        self.world.clock.advance(60)

    def _send(self, name: str, texts: Mapping[str, str], sub: str) -> Result:
        action = _ACTIONS[name]
        values = action.values({"reason": "planted", **texts})
        body = {each.json_name: values.get(each.name) for each in action.in_body}
        headers = authorized(scope=action.scope, sub=sub, now=self.world.clock())
        return self.world.client.simulate_post(
            action.path.format(**texts),
            json={key: value for key, value in body.items() if value},
            headers=headers,
        )

    def _made(self, name: str, texts: Mapping[str, str], fact: object = "") -> None:
        """Make an action that needs no approval."""
        stem = _ACTIONS[name].audit
        answer = self._send(name, texts, "alice")
        assert answer.status_code in {200, 202}, answer.text
        self._note(f"{stem}-requested", fact=fact)
        self._note(f"{stem}-succeeded", fact=fact)

    def _approved(self, name: str, texts: Mapping[str, str], fact: object = "") -> None:
        """Make an action that bob approves."""
        stem = _ACTIONS[name].audit
        first = self._send(name, texts, "alice")
        assert first.status_code == 409, first.text
        self._note(f"{stem}-requested", fact=fact)
        self._note("approval-request-succeeded")
        self._note(f"{stem}-refused", fact=fact, outcome="approval-required")
        self._decide("approve", first.json["digest"], "bob")
        self._wait()
        done = self._send(name, texts, "alice")
        assert done.status_code == 200, done.text
        self._note(f"{stem}-requested", fact=fact)
        self._note("approval-use-succeeded", by="token:bob")
        self._note(f"{stem}-succeeded", fact=fact)

    def _decide(self, name: str, digest: str, sub: str) -> None:
        self._wait()
        answer = self._send(name, {"digest": digest, "signature": ""}, sub)
        assert answer.status_code == 200, answer.text
        self._note(f"{_ACTIONS[name].audit}-succeeded", f"token:{sub}")

    def _stops(self) -> list[str]:
        return [each.token or "" for each in self.world.store.stops() if each.reason]

    def _plant_stop(self) -> bool | None:
        token = self._random.choice(["TUSD", "coin"])
        texts = {"network": "local", "asset": token}
        self._made("stop", texts, token)
        return None

    def _plant_resume(self) -> bool | None:
        stops = self.world.container.holds.stops()
        if not stops:
            return False
        token = str(self._random.choice(stops).token)
        self._approved("resume", {"network": "local", "asset": token}, token)
        return None

    def _plant_block(self) -> None:
        self._made("block-tenant", {"tenant": SHOP}, SHOP)

    def _plant_unblock(self) -> bool | None:
        if not self.world.store.blocks():
            return False
        self._approved("unblock-tenant", {"tenant": SHOP}, SHOP)
        return None

    def _keys(self, *states: KeyState) -> list[Any]:
        ring = self.world.store.keys()
        return [each for each in ring if each.state in states]

    def _plant_rotation(self) -> None:
        address = self.world.system.address
        (active,) = self._keys(KeyState.ACTIVE)
        names = {address(name): name for name in (OLD, NEW, OTHER)}
        names |= {each.address: each.key_id for each in self._keys(*KeyState)}
        for former in self._keys(KeyState.ACTIVE, KeyState.BLOCKED):
            del names[former.address]
        name = self._random.choice([*names.values()])
        texts = {"key_id": name, "active_address": active.address}
        more = {"compromised": "", "without_funds": ""}
        self._made("rotate-key", {**texts, **more}, key_prefix(name))

    def _plant_failover(self) -> bool | None:
        (active,) = self._keys(KeyState.ACTIVE)
        other = {OLD: ELSEWHERE, ELSEWHERE: OLD}.get(active.key_id)
        if other is None:
            return False
        self._made("fail-over", {"key_id": other}, key_prefix(other))
        return None

    def _plant_revocation(self) -> bool | None:
        former = self._keys(KeyState.DRAINING, KeyState.RETIRED)
        if not former or self._keys(KeyState.BLOCKED):
            return False
        address = former[0].address
        self._approved("revoke-key", {"address": address}, address)
        return None

    def _plant_reinstatement(self) -> bool | None:
        for key in self._keys(KeyState.BLOCKED):
            if self.world.clock() - key.revoked_at < timedelta(hours=23):
                address = key.address
                self._approved("reinstate-key", {"address": address}, address)
                return None
        return False

    def _plant_repair(self) -> None:
        self._made("repair-nonces", {"network": "local"}, "local")

    def _plant_replay(self) -> None:
        self._made("replay-dead", {"tenant": SHOP}, SHOP)

    def _plant_refusal(self) -> None:
        answer = self._send("stop", {"network": "nowhere", "asset": "COIN"}, "alice")
        assert answer.status_code == 404
        self._note("signing-stop-requested", fact="COIN")
        self._note("signing-stop-refused", fact="COIN", outcome="not-found")

    def _plant_intruder(self) -> None:
        answer = self.world.client.simulate_post(
            "/v1/admin/stop",
            headers=authorized(scope="none", sub="mallory", now=self.world.clock()),
        )
        assert answer.status_code == 403
        route = "/v1/admin/stop"
        actor = "token:mallory"
        self._note("admin-access-refused", actor, route, outcome=answer.json["code"])

    def _plant_rejection(self) -> None:
        name = self._random.choice(["reject", "break-glass"])
        texts = {"network": "local", "asset": "TUSD"}
        self._made("stop", texts, "TUSD")
        self._wait()
        first = self._send("resume", texts, "alice")
        self._note("signing-resume-requested", fact="TUSD")
        self._note("approval-request-succeeded")
        self._note("signing-resume-refused", fact="TUSD", outcome="approval-required")
        self._decide(name, first.json["digest"], "carol")
        if name == "break-glass":
            self._wait()
            assert self._send("resume", texts, "alice").status_code == 200
            self._note("signing-resume-requested", fact="TUSD")
            self._note("approval-use-succeeded", by="token:carol")
            self._note("signing-resume-succeeded", fact="TUSD")

    def _plant_alert(self) -> None:
        alert = self._random.choice([Alert.KEY_MISMATCH, Alert.NODE_DOWN])
        self.world.container.alerts.sound(alert, code="planted")
        if alert is Alert.KEY_MISMATCH:
            self._note("alert-raised", "alerts", "planted", outcome=alert)

    def _plant_start(self) -> None:
        """Start a process, perhaps with other rules, tenants or settings."""
        container = self.world.container
        process = self._random.choice(["api", "admin", "sign", "refunds"])
        self._rule += 1
        kind = self._random.choice(["", "policy", "tenants", "settings"])
        if kind == "policy":
            container.policy_files = {"10.cedar": f"// {self._rule}"}
        elif kind == "tenants":
            before = (container.tenants.tenants or {})[SHOP]
            new = {"subjects": (SHOP, f"shop-{self._rule}")}
            tenant = before.model_copy(update=new)
            container.tenants = TenantRegistry({SHOP: tenant})
        elif kind == "settings":
            lag = 15 + self._rule
            given = {"audit_ship_max_lag": lag}
            container.settings = container.settings.model_copy(update=given)
        self._start(process)

    def _plant_limits(self) -> None:
        """Start a worker with another limit; bob approves what is raised."""
        container = self.world.container
        network = container.networks["local"]
        token = network.tokens["TUSD"]
        amount = str(self._random.randrange(100, 1000))
        tokens = {"TUSD": token.model_copy(update={"max_amount": amount})}
        changed = network.model_copy(update={"tokens": tokens})
        container.networks = {"local": changed}
        self._forget()
        difference = container.limits_guard.compare()
        fact = " ".join(sorted(difference.changed))
        if difference.raised:
            alice = Actor.from_token("alice", "req", "jti")
            with pytest.raises(ApprovalRequiredError) as asked:
                container.limits_guard.request(alice.because("planted"))
            self._note("approval-request-succeeded")
            self._decide("approve", asked.value.digest, "bob")
            self._wait()
            self._note("approval-use-succeeded", "worker", by="token:bob")
            self._note("limits-raise-succeeded", "worker", fact, by="token:bob")
        elif not difference.is_accepted:
            self._note("limits-accept-succeeded", "worker", fact)
        self._start("worker")

    def _forget(self) -> None:
        """Let the container read its files again, as a new process does."""
        for part in ("configuration", "limits_guard"):
            self.world.container.__dict__.pop(part, None)

    def _start(self, process: str) -> None:
        container = self.world.container
        self._forget()
        record_start(container, process)
        after = dict(_leaves(container.configuration.document))
        last = self._last.get(process)
        if last is not None and last != after:
            names = sorted(last.keys() | after.keys())
            changed = " ".join(n for n in names if last.get(n) != after.get(n))
            self._note("configuration-changed", process, changed)
        self._note("configuration-loaded", process, process)
        self._last[process] = after

    def _plant_restore(self) -> None:
        container = self.world.container
        planner = RestorePlanner(
            container.store, container.chains, container.tenants, container.clock
        )

        def plan() -> Any:
            return planner.plan([], {}, [OLD], has_log=True)

        actor = Actor.from_token("alice", "req", "jti")
        stem = AuditAction.LEDGER_RESTORE
        with pytest.raises(ApprovalRequiredError) as asked:
            open_restorer(container).restore(plan(), [OLD], actor, plan)
        self._note(f"{stem}-requested")
        self._note("approval-request-succeeded")
        self._note(f"{stem}-refused", outcome="approval-required")
        self._decide("approve", asked.value.digest, "bob")
        self._wait()
        open_restorer(container).restore(plan(), [OLD], actor, plan)
        self._note(f"{stem}-requested")
        self._note("approval-use-succeeded", by="token:bob")
        self._note(f"{stem}-succeeded")

    def _pay(self) -> None:
        """Accept a refund: it is counted, and not listed."""
        number = self.changes
        body = {
            key: value for key, value in BODY.items() if key != "payment_session_id"
        }
        request = RefundRequest(f"session-{number}", f"reference-{number}", **body)
        self.world.container.refunds.submit(
            tenant="gateway",
            idempotency_key=f"key-{number}",
            request=request,
            actor=Actor.from_token("gateway", "req", None),
        )


def _leaves(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    if not isinstance(value, Mapping):
        yield path, str(value)
        return
    for name, each in value.items():
        yield from _leaves(each, f"{path}.{name}" if path else str(name))
