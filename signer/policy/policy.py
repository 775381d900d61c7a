"""
Compiles the rules once, and decides about each signature.

Cedar denies what nothing permits, and a ``forbid`` wins over every ``permit``.  Three
things are ours:

* Cedar skips a rule whose evaluation fails.  Here, that is a refusal: the rule may have
  been the ``forbid`` that matters.
* A ``forbid`` with the annotation ``@approvals("2")`` asks for the approvals of two
  people, and with ``@approvers("finance")`` of people of this group.  If other rules
  permit the signature and only such rules forbid it, the verdict is
  ``NEEDS_APPROVAL``.  Cedar gets it as a ``permit``: one evaluation then returns it
  together with the rules that permit, if nothing else forbids.
* If nothing permits a signature, ``reasons`` names why.  A reason is no ``forbid``: a
  ``permit`` of an operator can allow what the default does not.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Self

import cedarpy

from signer.errors import ConfigurationError, Refusal
from signer.model.decision import SHORT_DIGITS, ApprovalNeed, Decision, Verdict
from signer.policy.attributes import (
    ACTIONS,
    BY_FACTS,
    TOTALS,
    Entity,
    build_schema,
    principal,
    resource,
)
from signer.policy.facts import AnyFacts
from signer.policy.rules import (
    POLICY_ERROR,
    RESERVED,
    RULES,
    PolicyFile,
    RuleText,
    find_wrong_address,
    lower_addresses,
    reasons,
    split_statements,
)
from signer.ports.meter import NO_METER, Meter


MAX_APPROVALS = 5
"""How many approvals a rule can demand."""

_REMEMBERED = 256
"""How many answers are kept, each with its request."""

_LONGEST_REMEMBERED = 2048
"""
The longest context, in characters, whose answer is kept.

A rule may read texts and arguments, and a caller could fill the memory with them.
"""

Approve = Callable[[ApprovalNeed], object]
"""Raises an error unless people have approved what the rules demand."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")

_SCHEMA_TEXT = build_schema()
_SCHEMA = cedarpy.Schema.from_str(_SCHEMA_TEXT)
_NO_ENTITIES = cedarpy.Entities.from_json_str("[]")

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

_Reader = tuple[str, Callable[[Any], Any]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule that is valid: its name, and where and how it is written."""

    name: str
    effect: str
    statement: RuleText
    message: str
    approvals: int
    """How many people must approve what it forbids; 0 if they cannot."""
    approvers: str | None
    """The group that these people must belong to; None if any may approve."""
    attributes: frozenset[str] | None
    """The attributes that it reads; None if it uses ``context`` as a whole."""

    @property
    def evaluated(self) -> str:
        """The text that Cedar evaluates: a rule that asks for approvals is a permit."""
        if not self.approvals:
            return self.statement.text
        document = json.loads(cedarpy.policies_to_json_str(self.statement.text))
        (policy,) = document["staticPolicies"].values()
        policy["effect"] = "permit"
        return cedarpy.policies_from_json_str(json.dumps(document))

    @property
    def version(self) -> str:
        """The name, and the start of the hash of the text."""
        text = hashlib.sha256(self.statement.text.encode()).hexdigest()
        return f"{self.name}@{text[:SHORT_DIGITS]}"


class Policy:
    """The rules of some files; immutable, and safe to use from many threads."""

    def __init__(
        self,
        files: Sequence[PolicyFile],
        rules: Sequence[Rule],
        *,
        own_files: Sequence[PolicyFile],
        meter: Meter = NO_METER,
    ) -> None:
        """Use ``compile``, which checks the rules."""
        self._meter = meter
        self.files = tuple(files)
        self.own_files = tuple(own_files)
        self.rules = tuple(rules)
        self.hash = _hash(files)
        self._deciding = _RuleSet(self.rules)
        self.has_approvals = any(each.approvals for each in rules)
        self.reads_totals = self._deciding.reads_any(TOTALS)

    @classmethod
    def compile(
        cls,
        defaults: Sequence[PolicyFile],
        own: Sequence[PolicyFile] = (),
        meter: Meter = NO_METER,
    ) -> Self:
        """
        Return the policy of *defaults* and an operator's *own* files.

        The rules of all files apply together.  *meter* counts each decision of
        ``require``.

        Raises:
            ConfigurationError: ``policy-invalid``, once for each rule that cannot be
                parsed, does not fit the schema, or has no name.
        """
        rules: list[Rule] = []
        refusals: list[Refusal] = []
        files = (*defaults, *own)
        for file in files:
            for statement in split_statements(file):
                try:
                    rules.append(_check(statement))
                except ValueError as e:
                    problem = f"{statement.place}: {e}"
                    refusals.append(Refusal("policy-invalid", problem))
        if refusals:
            raise ConfigurationError(*refusals)
        return cls(files, rules, own_files=own, meter=meter)

    @property
    def short_hash(self) -> str:
        """The start of ``hash``, as signing records contain it."""
        return self.hash[:SHORT_DIGITS]

    def evaluate(self, facts: AnyFacts) -> Decision:
        """Return whether *facts* may be signed, and which rules decided."""
        answer = self._deciding.ask(facts)
        if answer.has_errors:
            return self._refuse(facts, [POLICY_ERROR, *answer.names])
        if answer.rules and not answer.is_allowed:
            return self._refuse(facts, answer.names)
        permits = [rule for rule in answer.rules if not rule.approvals]
        asking = [rule for rule in answer.rules if rule.approvals]
        if permits and asking:
            return self._ask_for_approvals(facts, asking)
        if permits:
            return Decision(Verdict.ALLOW, _names(permits), self.hash, facts.digest)
        return self._refuse(facts, reasons(facts), "; an own permit can allow it")

    def require(self, facts: AnyFacts, approve: Approve | None = None) -> Decision:
        """
        Return the decision that *facts* may be signed.

        Every path that signs calls this with what it decoded from the bytes.  *approve*
        raises an error unless people have approved what the rules demand; a path
        without it signs nothing that needs an approval.

        Raises:
            PolicyViolationError: They may not; ``rule`` names the rule that refuses.
        """
        decision = self.evaluate(facts)
        try:
            if decision.need is not None and approve is not None:
                approve(decision.need)
                decision = replace(decision, verdict=Verdict.ALLOW, message="")
        finally:
            self.count(facts, decision)
        decision.require_allowed()
        return decision

    def count(self, facts: AnyFacts, decision: Decision) -> None:
        """Count *decision* of ``evaluate`` about *facts*, which ended a payment."""
        self._meter.decided(facts.caller.path, decision.verdict, decision.rule)

    def _ask_for_approvals(self, facts: AnyFacts, asking: Sequence[Rule]) -> Decision:
        need = ApprovalNeed(
            frozenset(rule.version for rule in asking),
            max(rule.approvals for rule in asking),
            frozenset(rule.approvers for rule in asking if rule.approvers is not None),
        )
        groups = f" of {', '.join(sorted(need.groups))}" if need.groups else ""
        refused = self._refuse(
            facts, _names(asking), hint=f"; approvals needed: {need.count}{groups}"
        )
        return replace(refused, verdict=Verdict.NEEDS_APPROVAL, need=need)

    def _refuse(
        self, facts: AnyFacts, names: Sequence[str], hint: str = ""
    ) -> Decision:
        why = next(
            (
                rule.message
                for rule in self.rules
                if rule.name == names[0] and rule.message
            ),
            RULES.get(names[0], "a rule of the operator forbids it"),
        )
        action = BY_FACTS[type(facts)].name.removeprefix("sign-").replace("-", " ")
        return Decision(
            Verdict.REFUSE,
            tuple(names),
            self.hash,
            facts.digest,
            f"the policy refuses the {action}: {why} (rule {names[0]}{hint})",
        )


class LivePolicy:
    """
    A policy that ``replace`` exchanges for another one; safe to use from many threads.

    It has all that the rules in force have.  One policy makes a whole decision, also if
    it is replaced meanwhile.  ``problem`` is why the rules in the files are not in
    force; None if they are.
    """

    def __init__(self, policy: Policy) -> None:
        self._current = policy
        self.problem: str | None = None

    def replace(self, policy: Policy) -> None:
        self._current = policy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._current, name)


AnyPolicy = Policy | LivePolicy


def _names(rules: Iterable[Rule]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(rule.name for rule in rules))


@dataclass(frozen=True, slots=True)
class _Answer:
    is_allowed: bool
    rules: tuple[Rule, ...]
    has_errors: bool

    @property
    def names(self) -> tuple[str, ...]:
        return _names(self.rules)


@dataclass(slots=True)
class _RuleSet:
    rules: Sequence[Rule]
    _policies: cedarpy.PolicySet = field(init=False)
    _readers: dict[type, tuple[Entity, list[_Reader]]] = field(init=False)
    _answer: Callable[[Entity, Entity, Entity, str], _Answer] = field(init=False)

    def __post_init__(self) -> None:
        # Cedar numbers the rules of a text from policy0 on.
        self._policies = cedarpy.PolicySet.from_str(
            "\n".join(lower_addresses(rule.evaluated) for rule in self.rules)
        )
        self._readers = {
            action.facts: (
                Entity("Action", action.name),
                [
                    (each.name, each.read)
                    for each in action.attributes
                    if self.reads_any([each.name])
                ],
            )
            for action in ACTIONS
        }
        # The rules never change, and see nothing but the request: the answer to an
        # equal one is equal.
        self._answer = lru_cache(maxsize=_REMEMBERED)(self._ask_cedar)

    def ask(self, facts: AnyFacts) -> _Answer:
        action, readers = self._readers[type(facts)]
        # Without what no rule reads, the requests of most refunds are equal.
        context = {}
        for name, read in readers:
            value = read(facts)
            if value is not None:
                context[name] = value
        encoded = _encode(context)
        is_short = len(encoded) <= _LONGEST_REMEMBERED
        ask = self._answer if is_short else self._ask_cedar
        return ask(principal(facts), action, resource(facts), encoded)

    def _ask_cedar(
        self, asking: Entity, action: Entity, subject: Entity, context: str
    ) -> _Answer:
        """Return Cedar's answer to one request; *context* is JSON."""
        request = {
            "principal": asking._asdict(),
            "action": action._asdict(),
            "resource": subject._asdict(),
            "context": context,
        }
        result = cedarpy.is_authorized(request, self._policies, _NO_ENTITIES)
        diagnostics = result.diagnostics
        decision = result.decision
        places = sorted(
            int(reason.removeprefix("policy")) for reason in diagnostics.reasons
        )
        return _Answer(
            decision is cedarpy.Decision.Allow,
            tuple(self.rules[place] for place in places),
            bool(diagnostics.errors) or decision is cedarpy.Decision.NoDecision,
        )

    def reads_any(self, attributes: Iterable[str]) -> bool:
        """Return whether a rule may read one of *attributes*."""
        return any(
            rule.attributes is None or attribute in rule.attributes
            for rule in self.rules
            for attribute in attributes
        )


@lru_cache(maxsize=1024)  # Most rules are the same when a policy is compiled again.
def _check(statement: RuleText) -> Rule:
    """
    Return the rule of *statement*.

    Raises:
        ValueError: It cannot be used; the message has the reason, and not the place.
    """
    wrong = find_wrong_address(statement.text)
    if wrong is not None:
        raise ValueError(f"the address {wrong} has a wrong checksum (EIP-55)")
    document = json.loads(cedarpy.policies_to_json_str(statement.text))
    if document["templates"]:
        raise ValueError("templates (?principal, ?resource) cannot be used")
    (policy,) = document["staticPolicies"].values()
    problems = dict.fromkeys(
        error.error.removeprefix("for policy `policy0`, ")
        for error in cedarpy.validate_policies(statement.text, _SCHEMA).errors
    )
    if problems:
        raise ValueError("; ".join(problems))
    annotations = policy.get("annotations", {})
    rule = Rule(
        name=annotations.get("id") or "",
        effect=policy["effect"],
        statement=statement,
        message=annotations.get("message") or "",
        approvals=_read_approvals(annotations, policy["effect"]),
        approvers=_read_approvers(annotations),
        attributes=_find_attributes(policy["conditions"]),
    )
    _check_name(rule)
    return rule


def _read_approvals(annotations: dict[str, str | None], effect: str) -> int:
    if "approvals" not in annotations:
        return 0
    if effect == "permit":
        raise ValueError("only a forbid can ask for @approvals")
    written = annotations["approvals"] or ""
    if written not in map(str, range(1, MAX_APPROVALS + 1)):
        raise ValueError(f'@approvals must be a number from "1" to "{MAX_APPROVALS}"')
    return int(written)


def _read_approvers(annotations: dict[str, str | None]) -> str | None:
    if "approvers" not in annotations:
        return None
    if "approvals" not in annotations:
        raise ValueError("@approvers needs the number of people: @approvals")
    group = annotations["approvers"] or ""
    if not _NAME.fullmatch(group):
        raise ValueError(
            "@approvers must be one group: at most 64 lower-case letters, digits and"
            " hyphens"
        )
    return group


def _check_name(rule: Rule) -> None:
    if not rule.name:
        raise ValueError(f'the {rule.effect} has no name: write @id("...") before it')
    if not _NAME.fullmatch(rule.name):
        raise ValueError(
            f"the name {rule.name!r} must be at most 64 lower-case letters, digits and"
            " hyphens"
        )
    if rule.name in RESERVED:
        raise ValueError(f"the name {rule.name} has another meaning; choose another")


def _find_attributes(conditions: object) -> frozenset[str] | None:
    """
    Return the attributes of ``context`` that *conditions* read.

    Return None if they use ``context`` in any other way than to read one of its
    attributes.
    """
    found = list(_walk(conditions))
    if None in found:
        return None
    return frozenset(each for each in found if each is not None)


def _walk(node: object) -> Iterator[str | None]:
    if isinstance(node, list):
        for each in node:
            yield from _walk(each)
    elif isinstance(node, dict) and node.get("Var") == "context":
        yield None
    elif isinstance(node, dict):
        for operator, operand in node.items():
            if operator in {".", "has"} and operand.get("left") == {"Var": "context"}:
                yield operand["attr"]
            else:
                yield from _walk(operand)


def _hash(files: Iterable[PolicyFile]) -> str:
    """Return the SHA-256 of the schema and of all *files*, in hex."""
    texts = [["schema", _SCHEMA_TEXT], *([file.name, file.text] for file in files)]
    return hashlib.sha256(_encode(texts).encode()).hexdigest()
