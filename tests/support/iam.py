"""
A linter for the policies in ``docs/iam``: parsed JSON in, findings out.

It knows the few policies that this project ships, and nothing of IAM at large: what
it does not expect is a finding.  Of two ways to write a policy, ours is the one that
a reader understands at once.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tests.support.iam_documents import Policy, Statement, granted, statements


Conditions = Mapping[str, tuple[str, str, str]]
"""By the rule that asks for it: an operator, a condition key, and its one value."""

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
READING: Conditions = {
    "resource-tag": ("Null", "aws:ResourceTag/hotwallet", "false"),
}

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
ANYBODY = frozenset(
    {
        "kms:describekey",
        "kms:getkeypolicy",
        "kms:getpublickey",
        "kms:listgrants",
        "kms:listresourcetags",
    }
)
# Whoever starts the service hands it its secrets; it fetches none.
_SECRETS = re.compile(r"secretsmanager:.*|ssm:get.*|kms:(decrypt|reencrypt.*)")
_MANAGEMENT = re.compile(
    r"kms:(create|schedule|disable|enable|put|delete|cancel|import|replicate|revoke"
    r"|retire|update|tag|untag).*"
)
_WILDCARD = re.compile(r"[*?]")
_KEY = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+")
_KEYS_OF_ACCOUNT = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/\*")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[A-Za-z0-9_+=,.@/-]+")
_WITHOUT_A_KEY = frozenset({"kms:createkey", "kms:listkeys"})


@dataclass(frozen=True, slots=True)
class Finding:
    """Which *rule* is broken, and where: a statement's ``Sid``, or ``policy``."""

    statement: str
    rule: str


def lint_runtime(policy: Policy) -> list[Finding]:
    """Judge what the running service may do: sign digests with keys by name."""
    missing = [] if granted(policy) >= RUNTIME else [Finding("policy", "not-granted")]
    return [*findings(policy, _runtime), *missing]


def lint_rotation(policy: Policy) -> list[Finding]:
    """Judge what makers of keys may do: neither use a key nor destroy it."""
    denied = {
        action
        for each in statements(policy, "Deny")
        if each.resources == ("*",) and not each.conditions
        for action in each.actions
    }
    missing = [] if denied >= NEVER_BY_ROTATION else [Finding("policy", "not-denied")]
    return [*findings(policy, _rotation), *missing]


def lint_key_policy(policy: Policy) -> list[Finding]:
    """Judge who may do what with a key: one role signs, and one decides."""
    signers = {
        principal
        for each in statements(policy, "Allow")
        if "kms:sign" in each.actions
        for principal in each.principals
    }
    closed = any(_keeps_out(each, signers) for each in statements(policy, "Deny"))
    missing = [] if closed else [Finding("policy", "others-not-denied")]
    return [*findings(policy, _key), *missing]


def findings(
    policy: Policy, rules: Callable[[Statement], Iterator[str]]
) -> Iterator[Finding]:
    """Yield what *policy* breaks of *rules*, and of those that are for every policy."""
    if policy.get("Version") != "2012-10-17":
        yield Finding("policy", "version")
    found = statements(policy)
    if len({each.sid for each in found} - {""}) < len(found):
        yield Finding("policy", "sid")
    for each in found:
        # Once per statement, however many resources or actions break the rule.
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
        # Never met by a request that names its key by ARN, as all of ours do.
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
    yield from _unmet(statement, "kms:sign", SIGNING)


def _excess(action: str) -> str:
    """Return the rule that *action* breaks where the running service has it."""
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
        yield "grants"  # A grant is a second policy, which nobody reads.
    by_role = all(map(_ROLE.fullmatch, statement.principals))
    if "kms:sign" in statement.actions and not by_role:
        yield "signer"
    others = statement.actions - ANYBODY - {"kms:sign", "kms:creategrant"}
    if others and not all(map(is_break_glass, statement.principals)):
        yield "break-glass"
    yield from _unmet(statement, "kms:sign", SIGNING)


def _keeps_out(statement: Statement, signers: set[str]) -> bool:
    """Say whether *statement* denies Sign to everybody but *signers*."""
    exempt = statement.values("ArnNotEquals", "aws:PrincipalArn")
    return (
        statement.principals == {"*"}
        and statement.resources == ("*",)
        and "kms:sign" in statement.actions
        and len(statement.conditions) == 1
        and set(exempt) == signers
    )


def _unmet(statement: Statement, action: str, needed: Conditions) -> Iterator[str]:
    """Yield each rule of *needed* that *action* does not depend on."""
    if action not in statement.actions:
        return
    for rule, (operator, key, value) in needed.items():
        if statement.values(operator, key) != [value]:
            yield rule


def is_break_glass(principal: str) -> bool:
    """Say whether *principal* is the one role that decides."""
    role = _ROLE.fullmatch(principal)
    return role is not None and principal.endswith("/hotwallet-break-glass")
