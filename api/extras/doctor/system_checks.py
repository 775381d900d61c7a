"""The doctor's checks of settings, database, key and audit, in their order."""

import time
from collections.abc import Iterator
from datetime import datetime

from api.backend_factories import load_checkpoint_key
from api.extension import find_hooks
from api.extras.doctor.key_checks import DoctorContext, key_checks
from api.health.readiness import (
    AuditUnsealedError,
    AuditUnsignedError,
    WorkerStoppedError,
    unsealed_seconds,
)
from api.health.secrets import find_secrets
from api.metrics.workers import read_throttled_shares
from signer.alerts import Alert
from signer.approvals import read_open_approvals
from signer.audit.actions import AuditAction
from signer.audit.checkpointer import CheckpointSettings, find_unsigned
from signer.audit.checkpoints import find_newest, statement_of
from signer.audit.hash_chain import require_agreement
from signer.audit.sealer import LATE
from signer.diagnostics import EXPLAIN, Check, Finding
from signer.errors import ConfigurationError, HotWalletError
from signer.keys.signing_alarm import THROTTLED_SHARE
from signer.model.audit_record import Actor, Operation
from signer.model.worker_row import WorkerRow, find_running, find_stopped
from signer.ports.audit_journal import Checkpoint
from signer.startup.dependency_checks import check_journal
from signer.startup.guard import check_settings
from signer.startup.policy_approval import describe


_SEAL_SECONDS = 5.0
_MAX_NAMED = 5  # How many forged checkpoints a finding names.
_LONGEST_NAME = 128
_POLL_SECONDS = 0.25
_DATABASE_CURE = "see docs/how-to/incidents.md"
_LIMITS_CURE = "run: hotwallet limits show"
_WORKER_CURE = "start `hotwallet worker`, or find out why it hangs"
_THROTTLING_CURE = "lower KMS_SIGNATURES_PER_SECOND, or ask AWS for a higher quota"


def system_checks(context: DoctorContext) -> Iterator[Check]:
    """Yield the checks of everything but the networks."""
    networks_cure = f"correct the networks file; {EXPLAIN}"
    database_cure = "run: hotwallet db upgrade, or: hotwallet explain-code CODE"
    sealer_cure = "start `hotwallet serve` or `hotwallet worker`: they seal records"
    yield context.check("settings", _check_settings, f"correct the variable; {EXPLAIN}")
    yield context.check("networks", _check_networks, networks_cure, "settings")
    # Does not need "networks", so that all mistakes are reported at once.
    yield context.check("guard", _check_guard, EXPLAIN, "settings")
    yield context.check("proxy", _check_proxy, EXPLAIN, "settings")
    yield context.check("tokens", _check_tokens, EXPLAIN, "settings")
    yield context.check("database", _check_database, database_cure, "settings")
    yield context.check("role", _check_role, EXPLAIN, "database")
    # These depend on the key ring, which "database" has read by now.
    yield from key_checks(context)
    yield context.check("audit", _check_audit, sealer_cure, "database")
    yield context.check("checkpoints", _check_checkpoints, EXPLAIN, "database")
    yield context.check("secrets", _check_secrets, EXPLAIN, "database")
    yield context.check("approvals", _check_approvals, EXPLAIN, "database")
    yield context.check("workers", _check_workers, _WORKER_CURE, "database")
    yield context.check("throttling", _check_throttling, EXPLAIN, "database")
    needs = ("networks", "database")
    yield context.check("limits", _check_limits, _LIMITS_CURE, *needs)
    yield context.check("webhooks", _check_webhooks, EXPLAIN, "database")
    for find_checks in find_hooks("doctor_checks"):
        yield from find_checks(context.container)


def _check_settings(context: DoctorContext) -> Finding:
    context.settings = context.container.settings
    return Finding(str(context.settings.app_env))


def _check_networks(context: DoctorContext) -> Finding:
    context.networks = context.container.networks
    networks = ", ".join(sorted(context.networks))
    # Equal on all hosts that apply the same rules.
    return Finding(f"{networks}; configuration {context.container.configuration.short}")


def _check_guard(context: DoctorContext) -> Finding:
    warnings = check_settings(context.settings, context.networks)
    warnings += context.container.check_backend(context.settings)
    if warnings:
        return Finding("; ".join(warnings), "no action in development")
    return Finding("the guard has no objection")


def _check_proxy(context: DoctorContext) -> Finding:
    settings = context.settings
    if settings.trusted_proxies:
        trusted = ", ".join(settings.trusted_proxies)
        return Finding(f"requests are accepted from {trusted} only")
    if settings.is_production:
        return Finding(
            "TRUSTED_PROXIES is empty: all callers share one rate limit for bad tokens",
            "set TRUSTED_PROXIES; run: hotwallet explain-code proxy-missing",
        )
    return Finding("TRUSTED_PROXIES is empty, which is fine outside production")


def _check_tokens(context: DoctorContext) -> Finding:
    _ = context.container.jwt_keys
    return Finding(f"verified with {context.settings.jwt_algorithm}")


def _check_database(context: DoctorContext) -> Finding:
    container = context.container
    try:
        container.store.check()
    except HotWalletError as e:
        # Outside production the store is upgraded when it is opened, which is refused.
        if not (e.retryable or (isinstance(e, ConfigurationError) and e.is_transient)):
            raise
        alert = Alert.DATABASE_UNREACHABLE
        return Finding(str(e), _DATABASE_CURE, alert, is_failed=True)
    context.active = container.store.active_key()
    context.is_ring_read = True
    if context.active is not None:
        context.address = context.active.address
    # Only writing shows that the role may write.
    context.written = container.audit.request(
        AuditAction.DOCTOR_RUN, Operation.ADMINISTRATION, Actor("doctor")
    )
    container.audit.write(context.written)
    return Finding("answers, has the current schema, and accepts writes")


def _check_role(context: DoctorContext) -> Finding:
    store = context.container.store
    check_journal(context.settings, store)
    excess = store.excess_privileges(context.settings.serve_role)
    if excess:
        return Finding(
            f"the database's role {', '.join(excess)}",
            "run: hotwallet explain-code audit-not-append-only",
        )
    if context.settings.effective_database_url.startswith("sqlite"):
        return Finding(
            "any process that can write the SQLite file can change the audit log"
        )
    return Finding("can append to the audit log, and not change it")


def _check_audit(context: DoctorContext) -> Finding:
    """Wait until this run's own record is sealed, which shows that a sealer runs."""
    until = time.monotonic() + _SEAL_SECONDS
    store, clock = context.container.store, context.container.clock
    oldest = store.oldest_unsealed()
    while oldest is not None and oldest <= context.written.id:
        if unsealed_seconds(oldest, clock) > LATE.total_seconds():
            raise AuditUnsealedError(
                f"records have waited for over {LATE.total_seconds():.0f} seconds"
            )
        if time.monotonic() > until:
            raise AuditUnsealedError("this run's own record was not sealed within 5 s")
        time.sleep(_POLL_SECONDS)
        oldest = store.oldest_unsealed()
    size, _ = store.head()
    return Finding(f"{size} records sealed, this run's included")


def _check_secrets(context: DoctorContext) -> Finding:
    now = context.container.ledger_clock()
    found = list(find_secrets(context.container.environ, context.active))
    due = [each.secret.name for each in found if each.is_due(now)]
    if due:
        return Finding(
            f"should have been replaced: {', '.join(due)}",
            "run: hotwallet secrets; docs/reference/secrets.md",
        )
    return Finding(f"{len(found)} are set, and none is older than it should be")


def _check_checkpoints(context: DoctorContext) -> Finding:
    path = context.settings.audit_signing_key_file
    made = context.settings.home / "audit.pem"  # Outside production, by the service.
    if path is None and not context.settings.is_production and made.exists():
        path = made
    if path is None:
        return Finding(
            "no key signs checkpoints of the audit log",
            "set AUDIT_SIGNING_KEY_FILE; run: hotwallet audit key --out FILE",
        )
    origin = context.settings.audit_origin
    signing = CheckpointSettings(
        load_checkpoint_key(context.settings, path), f"hotwallet/{origin}"
    )
    found = find_newest(context.container.store, signing.verify)
    last = found.checkpoint or next(iter(found.of_others), None)
    signed = _check_signed(context, last)
    detail = f"signed as {origin}: {signed}"
    if found.forged:
        sizes = ", ".join(str(each.size) for each in found.forged[:_MAX_NAMED])
        return Finding(
            f"{detail}; {len(found.forged)} forged checkpoints, of {sizes} records",
            "another program wrote them: docs/how-to/alarms.md,"
            " audit-checkpoint-forged",
        )
    if last is not None and found.checkpoint is None:
        return Finding(
            f"{detail}; the last checkpoint is not by this host's key",
            "compare AUDIT_SIGNING_KEY_FILE of all hosts, unless the key was changed",
        )
    return Finding(detail)


def _check_approvals(context: DoctorContext) -> Finding:
    clock = context.container.ledger_clock
    found = read_open_approvals(context.container.store)
    if found.changed:
        return Finding(
            f"another program changed {found.changed} approvals, which have no effect",
            "find out who wrote to the database: docs/how-to/alarms.md",
        )
    waiting = [each for each in found.approvals if not each.is_expired(clock())]
    if waiting:
        states = ", ".join(sorted(f"{each.action} {each.state}" for each in waiting))
        return Finding(
            f"not decided or not complete: {states}", "run: hotwallet approvals list"
        )
    required = "required" if context.container.approvals.required else "not required"
    return Finding(f"nothing waits; a second administrator is {required}")


def _check_workers(context: DoctorContext) -> Finding:
    found, now = context.container.store.workers(), context.container.ledger_clock()
    stopped = [_describe_worker(each, now) for each in find_stopped(found, now)]
    if stopped:
        raise WorkerStoppedError("; ".join(stopped))
    running = [_describe_worker(each, now) for each in find_running(found, now)]
    if not running and context.settings.is_production:
        raise WorkerStoppedError("no worker runs: refunds wait")
    if not running:
        return Finding(
            "no worker runs: refunds wait", _WORKER_CURE, Alert.WORKER_STOPPED
        )
    return Finding("; ".join(running))


def _describe_worker(worker: WorkerRow, now: datetime) -> str:
    seconds = max(0, int((now - worker.passed_at).total_seconds()))
    return f"worker {worker.name} completed a pass {seconds} s ago"


def _check_throttling(context: DoctorContext) -> Finding:
    """Say which share of the device's calls workers measured as rejected lately."""
    store, clock = context.container.store, context.container.ledger_clock
    shares = read_throttled_shares(store.workers(), clock())
    throttled = {name: each for name, each in shares.items() if each > THROTTLED_SHARE}
    if throttled:
        detail = "; ".join(
            f"{name} rejects {100 * share:.0f} % of the workers' calls"
            for name, share in sorted(throttled.items())
        )
        return Finding(detail, _THROTTLING_CURE, Alert.BACKEND_THROTTLED)
    return Finding("the device rejects no worker's calls because of their rate")


def _check_limits(context: DoctorContext) -> Finding:
    guard = context.container.limits_guard
    guard.require_approved()
    difference = guard.compare()
    if difference.raised:
        changes = "; ".join(describe(difference.raised))
        return Finding(f"raised when a worker starts: {changes}")
    if not difference.is_accepted:
        return Finding("no worker has started with these limits yet")
    return Finding(f"those of the last worker, version {difference.version}")


def _check_webhooks(context: DoctorContext) -> Finding:
    if not context.settings.serve_role.has_key:
        return Finding("this process sends no events")
    webhooks = context.container.tenants.webhooks()
    backlog = context.container.store.webhook_backlog()
    problems = [
        f"{each.tenant[:_LONGEST_NAME]!a}: {each.failing} events fail,"
        f" {each.dead} were given up"
        for each in backlog
        if each.failing or each.dead
    ]
    if problems:
        return Finding(
            "; ".join(problems),
            "run: hotwallet webhooks list; docs/how-to/webhooks.md explains problems",
            Alert.WEBHOOK_FAILING,
        )
    if not webhooks:
        return Finding("no tenant has a webhook")
    pending = sum(each.pending for each in backlog)
    return Finding(f"{pending} events wait, and none of them fails")


def _check_signed(context: DoctorContext, last: Checkpoint | None) -> str:
    """Require that *last* is recent, and that the chain agrees with it."""
    store = context.container.store
    size, at = 0, None
    if last is not None and (statement := statement_of(last)) is not None:
        size, at = statement.size, statement.at
        require_agreement(store, statement)
    overdue = find_unsigned(store, size, at, context.container.clock())
    if overdue.is_overdue:
        raise AuditUnsignedError(
            f"no checkpoint covers the last {overdue.records} records"
        )
    return f"{size} records; {overdue.records} await the next checkpoint"
