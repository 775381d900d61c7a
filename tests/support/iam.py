"""
A linter for the policies in ``docs/iam``: parsed JSON in, findings out.

It knows only the policies of this project: everything unexpected is a finding.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


Policy = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Statement:
    """
    One statement.

    ``conditions`` has the values by operator and key in lower case.  ``principals`` is
    empty in the policies of a role.
    """

    sid: str
    effect: str
    actions: frozenset[str]
    resources: tuple[str, ...]
    principals: frozenset[str]
    conditions: Mapping[tuple[str, str], list[str]]
    elements: frozenset[str]

    def values(self, operator: str, key: str) -> list[str]:
        return self.conditions.get((operator, key.lower()), [])


def parsed(text: str) -> Any:
    """
    Return the JSON value in *text*.

    Raises:
        ValueError: *text* is not JSON, or an object has a key twice.
    """
    return json.loads(text, object_pairs_hook=_unique)


def statements(policy: Policy, effect: str | None = None) -> list[Statement]:
    read = map(_statement, policy["Statement"])
    return [each for each in read if effect in (None, each.effect)]


def granted(policy: Policy) -> frozenset[str]:
    """Return the actions that *policy* allows, in lower case."""
    allowing = statements(policy, "Allow")
    return frozenset(action for each in allowing for action in each.actions)


def _statement(written: Mapping[str, Any]) -> Statement:
    return Statement(
        sid=str(written.get("Sid", "")),
        effect=str(written.get("Effect", "")),
        actions=frozenset(each.lower() for each in _listed(written.get("Action"))),
        resources=tuple(_listed(written.get("Resource"))),
        principals=_principals(written.get("Principal", {})),
        conditions=_conditions(written.get("Condition", {})),
        elements=frozenset(written),
    )


def _principals(written: Any) -> frozenset[str]:
    if isinstance(written, str):
        return frozenset({written})
    return frozenset(each for kind in written.values() for each in _listed(kind))


def _conditions(
    written: Mapping[str, Mapping[str, Any]],
) -> dict[tuple[str, str], list[str]]:
    read: dict[tuple[str, str], list[str]] = {}
    for operator, keys in written.items():
        for key, value in keys.items():
            # A key in two spellings has two values, which no rule expects.
            read.setdefault((operator, key.lower()), []).extend(_listed(value))
    return read


def _listed(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("an object has a key twice")
    return dict(pairs)


Conditions = Mapping[str, tuple[str, str, str]]
"""Operator, condition key and value by the rule that requires them."""

SIGNING: Conditions = {
    "signing-algorithm": ("StringEquals", "kms:SigningAlgorithm", "ECDSA_SHA_256"),
    "message-type": ("StringEquals", "kms:MessageType", "DIGEST"),
}
CREATION: Conditions = {
    "key-spec": ("StringEquals", "kms:KeySpec", "ECC_SECG_P256K1"),
    "key-usage": ("StringEquals", "kms:KeyUsage", "SIGN_VERIFY"),
    "key-origin": ("StringEquals", "kms:KeyOrigin", "AWS_KMS"),
    "single-region": ("Bool", "kms:MultiRegion", "false"),
    "lockout-check": ("Bool", "kms:BypassPolicyLockoutSafetyCheck", "false"),
    "key-tag": ("Null", "aws:RequestTag/hotwallet", "false"),
}
TAGGING: Conditions = {
    "tag-names": ("ForAllValues:StringEquals", "aws:TagKeys", "hotwallet"),
    "key-tag": ("Null", "aws:RequestTag/hotwallet", "false"),
}
READING: Conditions = {"resource-tag": ("Null", "aws:ResourceTag/hotwallet", "false")}

RUNTIME = frozenset({"kms:sign", "kms:getpublickey"})

ROTATION = frozenset(
    {
        "kms:createkey",
        "kms:getpublickey",
        "kms:listkeys",
        "kms:listresourcetags",
        "kms:tagresource",
    }
)
NEVER_BY_ROTATION = frozenset(
    {
        "kms:creategrant",
        "kms:disablekey",
        "kms:putkeypolicy",
        "kms:replicatekey",
        "kms:schedulekeydeletion",
        "kms:sign",
    }
)
READ_ONLY = frozenset(
    {
        "kms:describekey",
        "kms:getkeypolicy",
        "kms:getpublickey",
        "kms:listgrants",
        "kms:listresourcetags",
    }
)
# The service gets its secrets at the start, and fetches none.
_SECRETS = re.compile(r"secretsmanager:.*|ssm:get.*|kms:(decrypt|reencrypt.*)")
_MANAGEMENT = re.compile(
    r"kms:(create|schedule|disable|enable|put|delete|cancel|import|replicate|revoke"
    r"|retire|update|tag|untag).*"
)
_WILDCARD = re.compile(r"[*?]")
_KEY = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+")
_KEYS_OF_ACCOUNT = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/\*")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[A-Za-z0-9_+=,.@/-]+")
_ENDPOINT = re.compile(r"vpce-[0-9a-f]{8}(?:[0-9a-f]{9})?")
_VPC = re.compile(r"vpc-[0-9a-f]{8}(?:[0-9a-f]{9})?")
_WITHOUT_A_KEY = frozenset({"kms:createkey", "kms:listkeys"})


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken *rule*, and the ``Sid`` of its statement, or ``policy``."""

    statement: str
    rule: str


def lint_runtime(policy: Policy) -> list[Finding]:
    """Return findings about the running service, which signs with named keys."""
    missing = [] if granted(policy) >= RUNTIME else [Finding("policy", "not-granted")]
    return [*findings(policy, _runtime), *missing]


def lint_rotation(policy: Policy) -> list[Finding]:
    """Return findings about the role that creates keys, and must not use them."""
    denied = {
        action
        for each in statements(policy, "Deny")
        if each.resources == ("*",) and not each.conditions
        for action in each.actions
    }
    missing = [] if denied >= NEVER_BY_ROTATION else [Finding("policy", "not-denied")]
    return [*findings(policy, _rotation), *missing]


def lint_key_policy(policy: Policy) -> list[Finding]:
    """Return findings about a key policy: one role signs, and one administers."""
    signers = {
        principal
        for each in statements(policy, "Allow")
        if "kms:sign" in each.actions
        for principal in each.principals
    }
    denials = statements(policy, "Deny")
    missing = []
    if not any(_denies_others(each, signers) for each in denials):
        missing.append(Finding("policy", "others-not-denied"))
    if not any(map(_denies_other_networks, denials)):
        missing.append(Finding("policy", "any-network"))
    return [*findings(policy, _key), *missing]


def findings(
    policy: Policy, rules: Callable[[Statement], Iterator[str]]
) -> Iterator[Finding]:
    if policy.get("Version") != "2012-10-17":
        yield Finding("policy", "version")
    found = statements(policy)
    if len({each.sid for each in found} - {""}) < len(found):
        yield Finding("policy", "sid")
    for each in found:
        # Once per statement, also if several resources or actions break the rule.
        for rule in dict.fromkeys((*_shape(each), *rules(each))):
            yield Finding(each.sid, rule)


def _shape(statement: Statement) -> Iterator[str]:
    if statement.effect not in ("Allow", "Deny"):
        yield "effect"
    if {"NotAction", "NotResource", "NotPrincipal"} & statement.elements:
        yield "negation"
    if any(map(_WILDCARD.search, statement.actions)):
        yield "wildcard-action"
    if any(key == "kms:requestalias" for _, key in statement.conditions):
        # All our requests name the key by ARN, and so never match.
        yield "request-alias"


def _runtime(statement: Statement) -> Iterator[str]:
    if statement.effect != "Allow":
        return
    for resource in statement.resources or ("",):
        if _WILDCARD.search(resource):
            yield "wildcard-resource"
        elif not _KEY.fullmatch(resource):
            yield "key-arn"
    yield from map(_excess, statement.actions - RUNTIME)
    endpoints = statement.values("StringEquals", "aws:SourceVpce")
    if not endpoints or not all(map(_ENDPOINT.fullmatch, endpoints)):
        yield "any-network"
    yield from _unmet(statement, "kms:sign", SIGNING)


def _excess(action: str) -> str:
    """Return the rule that *action* of the running service breaks."""
    if _WILDCARD.search(action):
        return "wildcard-action"
    if _SECRETS.fullmatch(action):
        return "reads-secrets"
    return "manages-keys" if _MANAGEMENT.fullmatch(action) else "extra-action"


def _rotation(statement: Statement) -> Iterator[str]:
    if statement.effect != "Allow":
        return
    if statement.actions & NEVER_BY_ROTATION:
        yield "uses-keys"
    if any(
        not _WILDCARD.search(action)
        for action in statement.actions - ROTATION - NEVER_BY_ROTATION
    ):
        yield "extra-action"
    if statement.actions - _WITHOUT_A_KEY and not all(
        map(_KEYS_OF_ACCOUNT.fullmatch, statement.resources or ("",))
    ):
        yield "wildcard-resource"
    yield from _unmet(statement, "kms:createkey", CREATION)
    yield from _unmet(statement, "kms:tagresource", TAGGING)
    yield from _unmet(statement, "kms:getpublickey", READING)


def _key(statement: Statement) -> Iterator[str]:
    if statement.effect != "Allow":
        return
    if not statement.principals or any(map(_WILDCARD.search, statement.principals)):
        yield "open-principal"
        return
    if "kms:creategrant" in statement.actions:
        yield "grants"  # A grant is a second, hidden policy.
    by_role = all(map(_ROLE.fullmatch, statement.principals))
    if "kms:sign" in statement.actions and not by_role:
        yield "signer"
    others = statement.actions - READ_ONLY - {"kms:sign", "kms:creategrant"}
    if others and not all(map(is_break_glass, statement.principals)):
        yield "break-glass"
    yield from _unmet(statement, "kms:sign", SIGNING)


def _denies_others(statement: Statement, signers: set[str]) -> bool:
    exempt = statement.values("ArnNotEquals", "aws:PrincipalArn")
    return _denies_signatures(statement) and set(exempt) == signers


def _denies_other_networks(statement: Statement) -> bool:
    """Return whether *statement* denies Sign from everywhere but named VPCs."""
    exempt = statement.values("StringNotEquals", "aws:SourceVpc")
    is_named = bool(exempt) and all(map(_VPC.fullmatch, exempt))
    return _denies_signatures(statement) and is_named


def _denies_signatures(statement: Statement) -> bool:
    """Return whether *statement* denies Sign to all, under a single condition."""
    return (
        statement.principals == {"*"}
        and statement.resources == ("*",)
        and "kms:sign" in statement.actions
        and len(statement.conditions) == 1
    )


def _unmet(statement: Statement, action: str, needed: Conditions) -> Iterator[str]:
    """Yield each rule of *needed* that *action* does not depend on."""
    if action not in statement.actions:
        return
    for rule, (operator, key, value) in needed.items():
        if statement.values(operator, key) != [value]:
            yield rule


def is_break_glass(principal: str) -> bool:
    role = _ROLE.fullmatch(principal)
    return role is not None and principal.endswith("/hotwallet-break-glass")


GUARDED: Mapping[str, frozenset[str]] = {
    "KeysStay": frozenset(
        {"kms:disablekey", "kms:putkeypolicy", "kms:schedulekeydeletion"}
    ),
    "DeletionIsSlow": frozenset({"kms:schedulekeydeletion"}),
    "AlarmsStay": frozenset(
        {
            "cloudwatch:deletealarms",
            "cloudwatch:disablealarmactions",
            "cloudwatch:putalarmmuterule",
            "cloudwatch:putmetricalarm",
            "cloudwatch:setalarmstate",
            "events:deleterule",
            "events:disablerule",
            "events:putrule",
            "events:puttargets",
            "events:removetargets",
            "logs:deletemetricfilter",
            "logs:putmetricfilter",
            "sns:deletetopic",
            "sns:putdataprotectionpolicy",
            "sns:removepermission",
            "sns:setsubscriptionattributes",
            "sns:settopicattributes",
            "sns:unsubscribe",
        }
    ),
    "EvidenceStays": frozenset(
        {
            "cloudtrail:deletetrail",
            "cloudtrail:puteventselectors",
            "cloudtrail:stoplogging",
            "cloudtrail:updatetrail",
            "logs:associatekmskey",
            "logs:deleteloggroup",
            "logs:deletelogstream",
            "logs:putretentionpolicy",
            "s3:deletebucket",
            "s3:deletebucketpolicy",
            "s3:putbucketobjectlockconfiguration",
            "s3:putbucketpolicy",
            "s3:putencryptionconfiguration",
            "s3:putlifecycleconfiguration",
        }
    ),
    "RolesStay": frozenset(
        {
            "iam:attachrolepolicy",
            "iam:createpolicyversion",
            "iam:deletepolicy",
            "iam:deletepolicyversion",
            "iam:deleterole",
            "iam:deleterolepermissionsboundary",
            "iam:deleterolepolicy",
            "iam:detachrolepolicy",
            "iam:putrolepermissionsboundary",
            "iam:putrolepolicy",
            "iam:setdefaultpolicyversion",
            "iam:updateassumerolepolicy",
            "iam:updaterole",
        }
    ),
    "AccountStays": frozenset(
        {
            "account:closeaccount",
            "account:disableregion",
            "organizations:leaveorganization",
        }
    ),
}
"""The exact actions that each statement of the guardrail denies."""

_OURS = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:(?P<kind>role|policy)/hotwallet-\*")


def lint_guardrail(policy: Policy) -> list[Finding]:
    """Return findings about a service control policy, which exempts one role."""
    denied = {each.sid: each.actions for each in statements(policy, "Deny")}
    missing = [
        Finding(sid, "not-denied")
        for sid, actions in GUARDED.items()
        if not denied.get(sid, frozenset()) >= actions
    ]
    return [*findings(policy, _rules), *missing]


def _rules(statement: Statement) -> Iterator[str]:
    if statement.effect != "Deny":
        yield "allows"
        return
    if statement.actions - GUARDED.get(statement.sid, frozenset()):
        yield "extra-action"  # The service may need it.
    if not _is_everywhere(statement):
        yield "narrowed"
    exempt = statement.values("ArnNotEquals", "aws:PrincipalArn")
    is_exempt = bool(exempt) and all(map(is_break_glass, exempt))
    if statement.sid == "DeletionIsSlow":  # For the break-glass role as well.
        window = "kms:ScheduleKeyDeletionPendingWindowInDays"
        is_exempt = statement.values("NumericLessThan", window) == ["30"]
    if len(statement.conditions) != 1 or not is_exempt:
        yield "exemption"


def _is_everywhere(statement: Statement) -> bool:
    """Return whether *statement* applies to all resources of its kind."""
    if statement.sid != "RolesStay":
        return statement.resources == ("*",)
    kinds = {
        found["kind"] for found in map(_OURS.fullmatch, statement.resources) if found
    }
    return kinds == {"role", "policy"}
