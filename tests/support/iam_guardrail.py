"""
A linter for the guardrail in ``docs/iam``, statement by statement.

It repeats every action, since a missing one in a policy that denies has no effect that
a test could observe.
"""

import re
from collections.abc import Iterator, Mapping

from tests.support.iam import Finding, findings, is_break_glass
from tests.support.iam_documents import Policy, Statement, statements


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
