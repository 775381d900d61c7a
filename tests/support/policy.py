"""The default policy, and cases for its decisions."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import cedarpy
import pytest

from signer.config.networks import Network
from signer.config.tenants import Tenant, TenantRegistry
from signer.model.audit_record import Purpose
from signer.model.decision import Decision, Verdict
from signer.policy.default_rules import account_policy, service_files
from signer.policy.examples import ExampleOutcome, Examples, run_examples
from signer.policy.facts import KnownNetwork, Path
from signer.policy.policy import Policy
from tests.support.vectors import load


# Its rules are the same for all networks; compiling them takes a while.
SERVICE_POLICY = Policy.compile(service_files({}, TenantRegistry()))


def permitted(digest: bytes, purpose: Purpose) -> Purpose:
    """Return *purpose* with a decision that allows *digest*."""
    decision = Decision(Verdict.ALLOW, ("test",), SERVICE_POLICY.hash, digest)
    return replace(purpose, decision=decision)


VECTORS = load("policy")

NETWORKS: Mapping[str, Network] = {
    name: Network.model_validate(network)
    for name, network in VECTORS["networks"].items()
}
KNOWN = {name: KnownNetwork.of(name, each) for name, each in NETWORKS.items()}
TENANTS = TenantRegistry({"shop": Tenant(subjects=("shop-1",))})

_OF_TENANTS = frozenset({Path.REFUND, Path.CALL, Path.JSON_RPC, Path.REST})
_WITH_MEMO = frozenset({Path.REFUND, Path.SWEEP})


@dataclass(frozen=True)
class Case:
    """One signature, and the rule that decides about it on each path."""

    name: str
    given: Mapping[str, Any]
    rules: Mapping[str, str]

    def fields(self) -> dict[str, Any]:
        """Return the whole transaction."""
        given = self.given["transaction"]
        defaults = VECTORS["defaults"].items()
        fees = {
            name: value
            for name, value in defaults
            if not ("gasPrice" in given and name.startswith("max"))
        }
        return {**fees, **given}


CASES = [
    Case(
        f"{case['group']}: {case['name']}",
        {
            name: value
            for name, value in case.items()
            if name not in {"group", "name", "rules"}
        },
        case["rules"],
    )
    for case in VECTORS["cases"]
]


@cache
def service_policy(own: str = "") -> Policy:
    """Return the policy of a service with ``NETWORKS`` and *own* rules."""
    from signer.policy.rules import PolicyFile  # noqa: PLC0415  Only here.

    files = [PolicyFile("own.cedar", own)] if own else []
    return Policy.compile(service_files(NETWORKS, TENANTS), files)


def decide(
    case: Case,
    path: Path,
    policy: Policy | None = None,
    *,
    is_service_wallet: bool = False,
) -> ExampleOutcome:
    """Return what *policy*, by default that of *path*, decides about *case*."""
    is_account = path is Path.ACCOUNT
    example: dict[str, Any] = {
        "name": case.name,
        "paths": [path],
        "verdict": "allow" if case.rules[path].startswith("+") else "refuse",
        "rule": case.rules[path].removeprefix("+"),
        **case.given,
    }
    if path in _OF_TENANTS:
        example["tenant"] = "shop"
    if path not in _WITH_MEMO:
        example.pop("memo", None)
    if is_account:
        example.pop("network", None)
    file = Examples.model_validate(
        {
            "defaults": VECTORS["defaults"],
            "keys": {**VECTORS["keys"], "service_wallet": is_service_wallet},
            "example": [example],
        }
    )
    chosen = policy or (account_policy() if is_account else service_policy())
    (outcome,) = run_examples(chosen, file, {} if is_account else NETWORKS, TENANTS)
    return outcome


def count_questions(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return the list to which each question to Cedar is added from now on."""
    asked: list[object] = []
    is_authorized = cedarpy.is_authorized

    def count(*given: object) -> object:
        asked.append(given)
        return is_authorized(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(cedarpy, "is_authorized", count)
    return asked
