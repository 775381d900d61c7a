"""
The composition root: makes the container, runs the guard, and records the start.

Call it after the fork.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from api.backend_factories import open_row_macs, refusing_store_errors
from api.container import Container
from api.extension import SERVICES, find_hooks, find_service
from signer.audit.actions import AuditAction
from signer.config.digest import Configuration
from signer.config.networks import Network
from signer.config.settings import Role
from signer.errors import (
    ConfigurationError,
    HotWalletError,
    InvalidInputError,
    Refusal,
)
from signer.model.audit_record import WORKER, Actor, Operation


if TYPE_CHECKING:
    from signer.chain.chain import Chain
    from signer.keys.signer import Signer
    from signer.policy.policy import Policy


_DEVICE_SECONDS = 3.0
"""How long a process that needs no device waits for it: meanwhile nothing is served."""


def build_container(
    environ: Mapping[str, str] = os.environ, *, is_worker: bool = False
) -> Container:
    """Return a container to look at ledger and chains; nothing is opened or checked."""
    return Container(environ=environ, is_worker=is_worker)


def build_admin_container(environ: Mapping[str, str] = os.environ) -> Container:
    """
    Return a container for an administrator's command; nothing is opened.

    The guard checks the settings, but not the active key: it may be the one in trouble.
    """
    container = build_container(environ)
    container.warnings = _check_settings(container, serving=False)
    return container


def open_container(
    environ: Mapping[str, str] = os.environ, *, serving: bool = True
) -> Container:
    """
    Return a container whose store, device, key and chains the guard has checked.

    With *serving* the process answers requests, so the keys for tokens are opened too.
    A process that serves refunds only opens no key and asks no node.  That of
    administrators also starts while the device does not answer.
    """
    from signer.startup import dependency_checks

    container = build_container(environ, is_worker=not serving)
    warnings = _check_settings(container, serving=serving, paying=not serving)
    dependency_checks.check_journal(
        container.settings, container.store, serving=serving
    )
    try:
        return _check_parts(container, warnings, serving=serving)
    except ConfigurationError as e:
        _record_refusal(container, e, serving=serving)
        raise


def _record_refusal(
    container: Container, error: ConfigurationError, *, serving: bool
) -> None:
    """
    Record that a process may not start; without a ledger, only its log says so.

    A new ledger has no limits that were accepted: the first record is that of a start.
    """
    role = container.settings.serve_role
    process = "api" if role is Role.ALL else role
    codes = [each.code for each in error.refusals]
    with suppress(HotWalletError):
        if container.store.head()[0]:
            record = container.audit.result(
                AuditAction.SERVICE_START,
                Operation.START,
                Actor(process) if serving else WORKER,
                outcome=codes[0],
                codes=" ".join(codes),
            )
            container.audit.write(record)


def _check_parts(
    container: Container, warnings: Sequence[str], *, serving: bool
) -> Container:
    with refusing_store_errors():
        container, kept = _with_accepted_limits(container, serving=serving)
        warnings = [*warnings, *kept]
        container.limits_guard.require_approved()
    if serving and not container.settings.serve_role.has_key:
        container.warnings = warnings
        return container
    signer, key_warnings = _settle_key(container, serving=serving)
    container.warnings = (*warnings, *key_warnings)
    _require_separate_audit_key(container, signer, serving=serving)
    for name, chain in container.chains.items():
        check_network(container, name, chain)
    return container


def check_network(container: Container, name: str, chain: Chain) -> None:
    """Refuse a *chain* whose id, tokens or vault are not as the configuration says."""
    from signer.startup.dependency_checks import check_chain, check_vault

    check_chain(name, chain.network, chain.client)
    is_production = container.settings.is_production
    check_vault(name, chain, container.store.keys(), is_production=is_production)


def _require_separate_audit_key(
    container: Container, signer: Signer | None, *, serving: bool
) -> None:
    """Require that the checkpoint key neither signs payments nor verifies tokens."""
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_public_key,
    )

    from signer.crypto.der import encode_public_key
    from signer.startup.dependency_checks import check_audit_key

    if container.checkpoint_settings is None:
        return
    pem = load_pem_public_key(container.checkpoint_settings.key.public_pem())
    audit = pem.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    known = container.jwt_keys.known() if serving else ()
    tokens = [key.spki for key in known if key.spki is not None]
    wallet = None if signer is None else signer.public_key.uncompressed
    check_audit_key(
        audit, tokens, None if wallet is None else encode_public_key(wallet)
    )


def _with_accepted_limits(
    container: Container, *, serving: bool
) -> tuple[Container, list[str]]:
    """
    Return a container without the raised limits that wait for an approval.

    So a file that was pushed too early does not keep processes from starting.  The
    caller checks the limits of the result, which are at most the accepted ones.
    """
    from signer.alerts import Alert
    from signer.config.file_limits import Files
    from signer.config.tenants import TenantRegistry, check_tenants

    files = Files(container.networks, container.tenants.tenants)
    kept = container.limits_guard.keep(files)
    if kept is None:
        return container, []
    refusal = container.limits_guard.compare().refusal()
    rebuilt = build_container(container.environ, is_worker=not serving)
    rebuilt.store, rebuilt.networks = container.store, kept.networks
    rebuilt.tenants = TenantRegistry(kept.tenants, container.settings.jwt_audience)
    try:
        check_tenants(rebuilt.tenants, rebuilt.networks)
    except ConfigurationError:
        return container, []
    problem = f"the limits accepted before stay in force: {refusal.message}"
    rebuilt.alerts.sound(Alert.POLICY_NOT_RELOADED, code=refusal.code, problem=problem)
    return rebuilt, [problem]


def check_configuration(
    environ: Mapping[str, str], process: str | None = None
) -> list[str]:
    """
    Check the settings and files of *environ*; return warnings.

    No node, device or database is asked.  *process* is a role, or the worker, that runs
    beside others; without it, one process has all roles.
    """
    is_worker = process == WORKER.name
    if process is not None:
        role = Role.ALL.value if is_worker else process
        environ = {**environ, "SERVE_ROLE": role}
    container = build_container(environ)
    refusals: list[Refusal] = []
    warnings: list[str] = []
    with _collecting(refusals):
        warnings = _check_settings(
            container, serving=not is_worker, paying=is_worker, alone=process is None
        )
    with _collecting(refusals):
        # Without the setting, development creates a key, and a check writes nothing.
        if container.settings.audit_signing_key_file is not None:
            _ = container.checkpoint_settings
    with _collecting(refusals):
        if process is None and container.settings.serve_role is Role.ALL:
            _check_extras(container, refusals, paying=True)  # A worker has no role.
    if refusals:
        raise ConfigurationError(*dict.fromkeys(refusals))
    return warnings


def record_start(container: Container, process: str) -> None:
    """
    Record in the audit log under which configuration *process* starts.

    Only a worker moves refunds: its limits become the accepted ones.
    """
    with refusing_store_errors():
        if process == WORKER.name:
            container.limits_guard.accept(WORKER)
        _record(container, process, container.configuration)


def prepare_rules(
    container: Container, directory: Path, rules: Mapping[str, str]
) -> Policy:
    """
    Return the policy with the own *rules* of *directory*, as its examples expect it.
    """
    from signer.config.policy_files import read_own_examples

    configuration = container.build_configuration(rules)
    container.build_limits_guard(configuration).require_approved()
    policy, text = container.compile_policy(rules), read_own_examples(directory)
    if text is not None:
        # They import eth-account, which few processes need.
        from signer.policy.examples import require_examples

        require_examples(policy, text, container.networks, container.tenants)
    return policy


def accept_rules(
    container: Container, process: str, rules: Mapping[str, str]
) -> Configuration:
    """
    Record in the audit log that *process* applies other own *rules* from now on.

    Return the configuration with them.  As at a start, a worker makes them the accepted
    ones.
    """
    configuration = container.build_configuration(rules)
    guard = container.build_limits_guard(configuration)
    guard.require_approved()
    if process == WORKER.name:
        guard.accept(WORKER, rules_only=True)
    _record(container, process, configuration)
    return configuration


def _record(container: Container, process: str, configuration: Configuration) -> None:
    from importlib.metadata import version

    from signer.audit import configurations
    from signer.audit.configurations import Start

    start = Start(process, version("hotwallet"), str(container.settings.app_env))
    configurations.record_start(container.audit, container.store, start, configuration)


def _check_settings(
    container: Container, *, serving: bool, paying: bool = False, alone: bool = True
) -> list[str]:
    """Check what needs no open backend, and report all problems at once."""
    from signer.startup import guard

    refusals: list[Refusal] = []
    networks: Mapping[str, Network] = {}
    warnings: list[str] = []
    parts = ["tenants", "policy", "deny_list"]
    parts += ["webhook_public_keys", "jwt_keys"] if serving else []
    parts += ["webhook_endpoints"] if paying else []
    with _collecting(refusals):
        networks = container.networks
    for part in parts:
        with _collecting(refusals):
            getattr(container, part)
    _check_extras(container, refusals, paying=paying)
    with _collecting(refusals):
        warnings = guard.check_settings(
            container.settings, networks, serving=serving, alone=alone
        )
    with _collecting(refusals):
        warnings += container.check_backend(container.settings, serving=serving)
    with _collecting(refusals):
        open_row_macs(container.settings)
    if refusals:
        # The tenants need the networks, and raise their refusals again.
        raise ConfigurationError(*dict.fromkeys(refusals))
    return warnings


def _check_extras(
    container: Container, refusals: list[Refusal], *, paying: bool
) -> None:
    """Add to *refusals* those of extras, and of settings whose extra is missing."""
    with _collecting(refusals):
        for name in SERVICES:
            find_service(name, container.environ)
    for check in find_hooks("start_checks"):
        with _collecting(refusals):
            check(container, paying=paying)


@contextmanager
def _collecting(refusals: list[Refusal]) -> Iterator[None]:
    try:
        yield
    except ConfigurationError as e:
        refusals += e.refusals


def _settle_key(
    container: Container, *, serving: bool
) -> tuple[Signer | None, list[str]]:
    """
    Make sure that the ring has an active key; return its signer, and warnings.

    Administrators stop, block and look up most while the device is down (ADR 8).
    """
    from signer.keys.startup_key import StartupKey
    from signer.startup import dependency_checks

    settings = container.settings
    key_setting = container.backend_plugin.key_setting
    needs_device = not (serving and settings.serve_role is Role.ADMIN)
    startup_key = StartupKey(
        container.store,
        container.signers,
        partial(
            dependency_checks.self_test_key,
            settings,
            key_setting,
            seconds=None if needs_device else _DEVICE_SECONDS,
        ),
        container.clock,
        needs_device=needs_device,
    )
    try:
        with refusing_store_errors():
            return startup_key.open(container.key_name, settings.wallet_address)
    except InvalidInputError as e:
        problem = Refusal("kms-not-configured", f"{key_setting} {e}")
    raise ConfigurationError(problem)
