"""The policies in ``docs/iam`` grant what is needed and nothing else (K13, K14)."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from api.logs import audit_logger
from backends.aws_kms.backend import KMSAdministrator, KMSBackend
from signer.audit.log import AuditLog
from signer.keys.signer import Signer
from tests.fixtures.kms import OpenKMS, Wire
from tests.support.iam import (
    CREATION,
    GUARDED,
    READING,
    SIGNING,
    TAGGING,
    Conditions,
    Finding,
    Policy,
    granted,
    lint_guardrail,
    lint_key_policy,
    lint_rotation,
    lint_runtime,
    parsed,
    statements,
)


ROOT = Path(__file__).resolve().parents[3]
KEY = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ALIAS = "arn:aws:kms:eu-central-1:111122223333:alias/hotwallet"
EVERYWHERE = "arn:aws:kms:*:111122223333:key/*"
ROLE = "arn:aws:iam::111122223333:role/hotwallet-runtime"
ACCOUNT = "arn:aws:iam::111122223333:root"
ENDPOINT = "aws:SourceVpce"
VPC = "vpc-0a1b2c3d4e5f67890"
WINDOW = "kms:ScheduleKeyDeletionPendingWindowInDays"

# What AWS's service authorization reference lists, as cfn-lint ships it.
_ACTIONS = "data/AdditionalSpecs/Policies.json"

TEMPLATES = ("alarms", "wallet")
"""For CloudFormation."""

LINTERS: dict[str, Callable[[Policy], list[Finding]]] = {
    "runtime-role": lint_runtime,
    "rotation-role": lint_rotation,
    "key-policy": lint_key_policy,
    "guardrail": lint_guardrail,
}


@dataclass(frozen=True, slots=True)
class Mutation:
    """A change that makes a valid policy invalid, and its name for the report."""

    name: str
    apply: Callable[[Any], None]

    def __str__(self) -> str:
        return self.name


def _read(name: str) -> Any:
    path = ROOT / "docs" / "iam" / f"{name}.json"
    return parsed(path.read_text(encoding="utf-8"))


def _statement(policy: Any, sid: str) -> Any:
    (statement,) = (each for each in policy["Statement"] if each["Sid"] == sid)
    return statement


def _with(sid: str, **elements: object) -> Mutation:
    """Return the mutation that replaces *elements* of one statement."""
    return Mutation(
        f"{sid}={elements}", lambda policy: _statement(policy, sid).update(elements)
    )


def _adding(sid: str, action: str) -> Mutation:
    """Return the mutation that adds *action* to one statement."""

    def mutate(policy: Any) -> None:
        actions = _statement(policy, sid)["Action"]
        listed = [actions] if isinstance(actions, str) else actions
        _statement(policy, sid)["Action"] = [*listed, action]

    return Mutation(f"{sid}+{action}", mutate)


def _without(sid: str, action: str) -> Mutation:
    """Return the mutation that removes *action*, in any case, from one statement."""

    def mutate(policy: Any) -> None:
        actions = _statement(policy, sid)["Action"]
        listed = [actions] if isinstance(actions, str) else actions
        kept = [each for each in listed if each.lower() != action.lower()]
        assert len(kept) == len(listed) - 1
        _statement(policy, sid)["Action"] = kept

    return Mutation(f"{sid}-{action}", mutate)


def _dropping(sid: str) -> Mutation:
    """Return the mutation that removes one statement."""
    return Mutation(
        f"-{sid}", lambda policy: policy["Statement"].remove(_statement(policy, sid))
    )


def _comparing(sid: str, operator: str, key: str, value: object) -> Mutation:
    """Return the mutation that compares *key* with *value*."""

    def mutate(policy: Any) -> None:
        conditions = _statement(policy, sid).setdefault("Condition", {})
        conditions.setdefault(operator, {})[key] = value

    return Mutation(f"{sid}:{operator}({key},{value})", mutate)


def _moving(sid: str, operator: str, other: str | None) -> Mutation:
    """Return the mutation that compares the network with *other*, or not at all."""

    def mutate(policy: Any) -> None:
        conditions = _statement(policy, sid)["Condition"]
        for key in [key for key in conditions[operator] if key.startswith("aws:S")]:
            value = conditions[operator].pop(key)
            if other is not None:
                conditions[other] = {key: value}
        if not conditions[operator]:
            del conditions[operator]

    return Mutation(f"{sid}:{operator}->{other}", mutate)


def _allow(policy: Any) -> None:
    policy["Statement"].append(
        {"Sid": "New", "Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
        | {"Condition": policy["Statement"][0]["Condition"]}
    )


def _exempt_by_window(policy: Any) -> None:
    window = _statement(policy, "DeletionIsSlow")["Condition"]
    _statement(policy, "KeysStay")["Condition"] = window


def _use_old_version(policy: Any) -> None:
    policy["Version"] = "2008-10-17"  # In which policy variables are plain text.


def _let_the_account_sign(policy: Any) -> None:
    _statement(policy, "RuntimeSigns")["Principal"] = {"AWS": ACCOUNT}
    exempt = _statement(policy, "NobodyElseSigns")["Condition"]["ArnNotEquals"]
    exempt["aws:PrincipalArn"] = ACCOUNT


def _findings(name: str, mutate: Callable[[Any], None]) -> list[Finding]:
    policy = _read(name)
    mutate(policy)
    return LINTERS[name](policy)


def test_every_shipped_policy_has_a_linter() -> None:
    shipped = {path.stem for path in (ROOT / "docs" / "iam").glob("*.json")}

    assert shipped == {*LINTERS, *TEMPLATES}
    for name, lint in LINTERS.items():
        assert lint(_read(name)) == []
    guardrail = (ROOT / "docs" / "iam" / "guardrail.json").read_text(encoding="utf-8")
    assert len(guardrail) <= 5120  # The limit of a service control policy.


RUNTIME_ROLE = [
    ("negation", _with("SignDigests", NotAction="kms:GetPublicKey")),
    ("negation", _with("SignDigests", NotResource=ALIAS)),
    ("wildcard-action", _adding("SignDigests", "*")),
    ("wildcard-action", _adding("SignDigests", "kms:*")),
    ("wildcard-action", _adding("SignDigests", "kms:Sig?")),
    (
        "request-alias",
        _comparing("SignDigests", "StringEquals", "KMS:requestAlias", "alias/a"),
    ),
    ("wildcard-resource", _with("SignDigests", Resource="*")),
    ("wildcard-resource", _with("SignDigests", Resource=[KEY, f"{KEY[:-2]}*"])),
    ("key-arn", _with("SignDigests", Resource=ALIAS)),
    ("key-arn", _with("SignDigests", Resource=[])),
    ("manages-keys", _adding("SignDigests", "kms:CreateKey")),
    ("manages-keys", _adding("SignDigests", "kms:ScheduleKeyDeletion")),
    ("manages-keys", _adding("SignDigests", "KMS:disablekey")),
    ("manages-keys", _adding("SignDigests", "kms:PutKeyPolicy")),
    ("manages-keys", _adding("SignDigests", "kms:CreateGrant")),
    ("reads-secrets", _adding("SignDigests", "secretsmanager:GetSecretValue")),
    ("reads-secrets", _adding("SignDigests", "ssm:GetParameters")),
    ("reads-secrets", _adding("SignDigests", "kms:Decrypt")),
    ("extra-action", _adding("SignDigests", "kms:DescribeKey")),
    ("extra-action", _adding("SignDigests", "s3:GetObject")),
    ("any-network", _comparing("SignDigests", "StringEquals", ENDPOINT, [])),
    ("any-network", _comparing("SignDigests", "StringEquals", ENDPOINT, "vpce-*")),
    ("any-network", _comparing("SignDigests", "StringEquals", ENDPOINT, VPC)),
    ("any-network", _moving("SignDigests", "StringEquals", "StringEqualsIfExists")),
    ("any-network", _moving("SignDigests", "StringEquals", "StringNotEquals")),
    ("any-network", _moving("SignDigests", "StringEquals", None)),
]


ROTATION_ROLE = [
    ("ListKeys", "effect", _with("ListKeys", Effect="allow")),
    ("TagKeys", "uses-keys", _adding("TagKeys", "kms:Sign")),
    ("TagKeys", "uses-keys", _adding("TagKeys", "kms:PutKeyPolicy")),
    ("TagKeys", "uses-keys", _adding("TagKeys", "kms:CreateGrant")),
    ("TagKeys", "uses-keys", _adding("TagKeys", "kms:ScheduleKeyDeletion")),
    ("TagKeys", "extra-action", _adding("TagKeys", "kms:UpdateAlias")),
    ("TagKeys", "extra-action", _adding("TagKeys", "iam:PassRole")),
    ("TagKeys", "wildcard-resource", _with("TagKeys", Resource=EVERYWHERE)),
    ("FindLostKeys", "wildcard-resource", _with("FindLostKeys", Resource="*")),
    ("policy", "not-denied", _without("NeverSign", "kms:Sign")),
    ("policy", "not-denied", _with("NeverSign", Resource=KEY)),
    (
        "policy",
        "not-denied",
        _comparing("NeverSign", "Bool", "aws:SecureTransport", "false"),
    ),
]


ELSEWHERE = "NobodySignsFromElsewhere"
ANY_NETWORK = [
    _dropping(ELSEWHERE),
    _with(ELSEWHERE, Principal={"AWS": ROLE}),
    _with(ELSEWHERE, Action="kms:GetPublicKey"),
    _with(ELSEWHERE, Resource=KEY),
    _comparing(ELSEWHERE, "StringNotEquals", "aws:SourceVpc", "vpc-*"),
    _comparing(ELSEWHERE, "StringNotEquals", "aws:SourceVpc", []),
    # Exemptions: a service that signs for a thief would be one.
    _comparing(ELSEWHERE, "Bool", "aws:ViaAWSService", "false"),
    _comparing(ELSEWHERE, "BoolIfExists", "aws:PrincipalIsAWSService", "false"),
    _moving(ELSEWHERE, "StringNotEquals", "StringEquals"),
    _moving(ELSEWHERE, "StringNotEquals", None),
]


KEY_POLICY = [
    ("AccountReads", "open-principal", _with("AccountReads", Principal="*")),
    (
        "AccountReads",
        "open-principal",
        _with("AccountReads", Principal={"AWS": [ACCOUNT, "*"]}),
    ),
    ("AccountReads", "open-principal", _with("AccountReads", Principal={})),
    ("BreakGlassRules", "grants", _adding("BreakGlassRules", "kms:CreateGrant")),
    ("RuntimeSigns", "signer", Mutation("account signs", _let_the_account_sign)),
    ("RuntimeReads", "break-glass", _adding("RuntimeReads", "kms:DisableKey")),
    ("AccountReads", "break-glass", _adding("AccountReads", "kms:PutKeyPolicy")),
    (
        "BreakGlassDeletesSlowly",
        "break-glass",
        _with("BreakGlassDeletesSlowly", Principal={"AWS": ACCOUNT}),
    ),
    ("policy", "others-not-denied", _dropping("NobodyElseSigns")),
    (
        "policy",
        "others-not-denied",
        _comparing(
            "NobodyElseSigns", "ArnNotEquals", "aws:PrincipalArn", [ROLE, ACCOUNT]
        ),
    ),
    (
        "policy",
        "others-not-denied",
        _comparing("NobodyElseSigns", "Bool", "aws:SecureTransport", "false"),
    ),
    *(("policy", "any-network", mutation) for mutation in ANY_NETWORK),
]


GUARDRAIL = [
    ("New", "allows", Mutation("allow", _allow)),
    ("KeysStay", "narrowed", _with("KeysStay", Resource=KEY)),
    (
        "KeysStay",
        "exemption",
        _comparing("KeysStay", "ArnNotEquals", "aws:PrincipalArn", ROLE),
    ),
    (
        "AlarmsStay",
        "exemption",
        _comparing("AlarmsStay", "Bool", "aws:MultiFactorAuthPresent", "false"),
    ),
    (
        "DeletionIsSlow",
        "exemption",
        _comparing("DeletionIsSlow", "NumericLessThan", WINDOW, "7"),
    ),
    ("KeysStay", "exemption", Mutation("the other's window", _exempt_by_window)),
    ("RolesStay", "narrowed", _with("RolesStay", Resource=ROLE)),
    ("RolesStay", "narrowed", _with("RolesStay", Resource=f"{ROLE[:-7]}*")),
    ("AlarmsStay", "extra-action", _adding("AlarmsStay", "kms:Sign")),
    *(
        (sid, "not-denied", _without(sid, action))
        for sid, actions in GUARDED.items()
        for action in sorted(actions)
    ),
    *((sid, "not-denied", _dropping(sid)) for sid in GUARDED),
]


MUTATIONS = {
    "runtime-role": [
        *(("SignDigests", rule, mutation) for rule, mutation in RUNTIME_ROLE),
        (
            "ReadPublicKey",
            "any-network",
            _moving("ReadPublicKey", "StringEquals", "StringEqualsIfExists"),
        ),
        ("policy", "version", Mutation("version", _use_old_version)),
        ("policy", "sid", _with("ReadPublicKey", Sid="SignDigests")),
        ("policy", "sid", _with("ReadPublicKey", Sid="")),
        ("policy", "not-granted", _dropping("ReadPublicKey")),
    ],
    "rotation-role": ROTATION_ROLE,
    "key-policy": KEY_POLICY,
    "guardrail": GUARDRAIL,
}


@pytest.mark.parametrize(
    ("name", "statement", "rule", "mutate"),
    [(name, *row) for name, rows in MUTATIONS.items() for row in rows],
    ids=str,
)
def test_a_mutated_policy_has_one_finding(
    name: str, statement: str, rule: str, mutate: Mutation
) -> None:
    """Each additional permission and each missing denial has exactly its finding."""
    assert _findings(name, mutate.apply) == [Finding(statement, rule)]


@pytest.mark.parametrize(
    ("name", "sid", "needed", "rule"),
    [
        (name, sid, needed, rule)
        for name, sid, needed in (
            ("runtime-role", "SignDigests", SIGNING),
            ("key-policy", "RuntimeSigns", SIGNING),
            ("rotation-role", "CreateKeys", CREATION),
            ("rotation-role", "TagKeys", TAGGING),
            ("rotation-role", "ReadPublicKeys", READING),
        )
        for rule in needed
    ],
)
@pytest.mark.parametrize("how", ["forgotten", "if-exists", "other", "two"])
def test_an_ineffective_condition_is_found(
    name: str, sid: str, needed: Conditions, rule: str, how: str
) -> None:
    """A condition must exist, apply if its key is absent, and name one value."""
    operator, key, value = needed[rule]

    def mutate(policy: Any) -> None:
        conditions = _statement(policy, sid)["Condition"]
        del conditions[operator][key]
        match how:
            case "if-exists":
                conditions[f"{operator}IfExists"] = {key: value}
            case "other":
                conditions[operator][key] = "other"
            case "two":
                conditions[operator][key] = [value, "other"]

    assert _findings(name, mutate) == [Finding(sid, rule)]


def test_a_repeated_json_key_is_refused() -> None:
    """AWS and a reader could use different values."""
    with pytest.raises(ValueError, match="twice"):
        parsed('{"Effect": "Deny", "Effect": "Allow"}')


def test_the_policies_for_two_regions_have_one_finding() -> None:
    """K18: the documented changes for replicas allow multi-Region keys."""
    replica = KEY.replace("eu-central-1", "eu-west-1")
    runtime, rotation, key = map(_read, ("runtime-role", "rotation-role", "key-policy"))
    for statement in runtime["Statement"]:
        statement["Resource"] = [KEY, replica]
        equals = statement["Condition"]["StringEquals"]
        equals["aws:SourceVpce"] = [equals["aws:SourceVpce"], "vpce-0123abcd"]
    _comparing("CreateKeys", "Bool", "kms:MultiRegion", "true").apply(rotation)
    replicate = {
        "Sid": "BreakGlassReplicates",
        "Effect": "Allow",
        "Principal": _statement(key, "BreakGlassRules")["Principal"],
        "Action": "kms:ReplicateKey",
        "Resource": "*",
        "Condition": {"StringEquals": {"kms:ReplicaRegion": "eu-west-1"}},
    }
    key["Statement"].append(replicate)

    assert lint_runtime(runtime) == []
    assert lint_key_policy(key) == []
    assert lint_rotation(rotation) == [Finding("CreateKeys", "single-region")]


def test_every_action_exists() -> None:
    """IAM accepts a misspelt action, which has no effect."""
    cfnlint = find_spec("cfnlint")
    assert cfnlint is not None
    known = json.loads((Path(str(cfnlint.origin)).parent / _ACTIONS).read_bytes())
    for name in LINTERS:
        actions = {
            tuple(action.split(":"))
            for statement in statements(_read(name))
            for action in statement.actions
        }
        assert {
            (service, verb)
            for service, verb in actions
            if verb not in known[service]["Actions"]
        } == set()


def test_the_runtime_role_has_exactly_the_needed_actions(
    open_kms: OpenKMS, kms_key: str, wire: Wire
) -> None:
    """They are the actions that boto3 sends from the start to a signature."""
    backend: KMSBackend = open_kms()
    signer = Signer.open(backend, backend.resolve(kms_key), AuditLog(audit_logger()))
    signer.self_test()

    assert {f"kms:{each.lower()}" for each in wire()} == granted(_read("runtime-role"))


def test_the_rotation_role_may_create_and_read_a_key(
    kms_administrator: KMSAdministrator, wire: Wire
) -> None:
    """The role allows the requests of the administrator."""
    kms_administrator.public_key(kms_administrator.generate("rotation-role"))
    sent = {f"kms:{each.lower()}" for each in wire()}

    assert sent == {"kms:createkey", "kms:getpublickey"}
    assert sent < granted(_read("rotation-role"))


def test_the_templates_are_valid() -> None:
    """cfn-lint has no finding."""
    # It takes two seconds to import, in each process that collects tests.
    from cfnlint.api import lint_all  # type: ignore[import-untyped]  # noqa: PLC0415

    for name in TEMPLATES:
        text = (ROOT / "docs" / "iam" / f"{name}.json").read_text(encoding="utf-8")
        found = [
            str(each)
            for each in lint_all(text)
            if each.rule.severity != "informational"
        ]
        assert found == [], name


def test_each_alarm_notifies_the_topic() -> None:
    """All rules and alarms have the topic that sends mail."""
    resources = _read("alarms")["Resources"].values()
    topic = {"Ref": "Alarms"}
    rules = [r for r in resources if r["Type"] == "AWS::Events::Rule"]
    alarms = [r for r in resources if r["Type"] == "AWS::CloudWatch::Alarm"]
    filters = [r for r in resources if r["Type"] == "AWS::Logs::MetricFilter"]

    assert [r["Properties"]["Targets"][0]["Arn"] for r in rules] == [topic] * len(rules)
    assert all(r["Properties"]["AlarmActions"] == [topic] for r in alarms)
    assert {r["Properties"]["MetricName"] for r in alarms} == {
        f["Properties"]["MetricTransformations"][0]["MetricName"] for f in filters
    }
