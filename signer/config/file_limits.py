"""
The limits of the configuration files, and which of them are raised.

Only what bounds payments counts: amounts, gas, fees, which networks and tokens there
are, who may request refunds, the operator's own rules, and who approves with a key.
URLs and timeouts do not.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, get_args, get_origin

import rfc8785
from pydantic import BaseModel, ValidationError

from signer.config.digest import Change
from signer.config.models import LimitComparison
from signer.config.networks import Network
from signer.config.tenants import Tenant


Path = tuple[str, ...]
"""Where a value is in the files, such as ``("networks", "local", "chain_id")``."""

FileLimits = Mapping[Path, Any]
"""Values by path.  One that is absent is no limit."""


_MODELS: Mapping[str, type[BaseModel]] = {"networks": Network, "tenants": Tenant}

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def read_limits(document: Mapping[str, Any]) -> FileLimits:
    """Return the limits of a ``Configuration.document``."""
    names = ("networks", "tenants", "approvers")
    files = {name: document.get(name, {}) for name in names}
    texts: Mapping[str, str] = document.get("policy", {})
    files["policy"] = {name: _hash(text) for name, text in texts.items()}
    limits = {
        path: value
        for path, value in _leaves(files)
        if find_rule(path) is not LimitComparison.NOT_LIMITING
    }
    return {
        path: value for path, value in limits.items() if _is_on(path, value, limits)
    }


def find_rule(path: Path) -> LimitComparison:
    """
    Return when a change of *path* allows more: what its field declares.

    Every change of a field that declares nothing, or is unknown, allows more.
    """
    if path[0] == "approvers":
        return LimitComparison.GRANT
    model = _MODELS.get(path[0])
    names = iter(path[2:])  # The second one is that of a network or tenant.
    for name in names:
        field = None if model is None else model.model_fields.get(name)
        if field is None:
            break
        for each in field.metadata:
            if isinstance(each, LimitComparison):
                return each
        if get_origin(field.annotation) is dict:
            next(names, None)
        model = _find_model(field.annotation)
    return LimitComparison.FIXED


def _find_model(annotation: Any) -> type[BaseModel] | None:
    """Return the model that a field of this type has, or whose members it has."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def dump_limits(limits: FileLimits) -> str:
    """Return *limits* as canonical JSON, for ``parse_limits``."""
    return rfc8785.dumps(
        [[list(path), limits[path]] for path in sorted(limits)]
    ).decode()


def parse_limits(text: str) -> FileLimits:
    return {tuple(path): value for path, value in json.loads(text)}


def changed_limits(before: FileLimits, after: FileLimits) -> Mapping[str, Change]:
    """Return by path what differs."""
    return {
        dotted(path): _change(before.get(path), after.get(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    }


def raised_limits(before: FileLimits, after: FileLimits) -> Mapping[str, Change]:
    """
    Return by path what *after* allows and *before* did not.

    A network, token or tenant that is new is one change, which has all of its values.
    What belongs to a removed one is no change.  Every change of a file of rules is one.
    """
    # A file of rules that is removed may have forbidden something.
    found = dict(changed_limits(_of_policy(before), _of_policy(after)))
    before, after = _without_policy(before), _without_policy(after)
    old, new = _things(before), _things(after)
    added = _added(new - old, after)
    for path in raised_paths(before, after):
        change = _change(before.get(path), after.get(path))
        found[dotted(path)] = {"after": added[path]} if path in added else change
    if _has(old, "tenants") and not _has(new, "tenants"):
        found["tenants"] = {"after": "each subject is a tenant without limits"}
    if _has(old, "approvers") and not _has(new, "approvers"):
        found["approvers"] = {"after": "tokens approve, without keys of people"}
    return found


def read_approvers(limits: FileLimits) -> Mapping[str, Any] | None:
    """Return the document of the approvers' file that *limits* have; None without."""
    document: dict[str, Any] = {}
    for (part, *path, name), value in limits.items():
        if part != "approvers":
            continue
        table = document
        for each in path:
            table = table.setdefault(each, {})
        table[name] = value
    for person in document.get("people", {}).values():
        person["groups"] = [*person.get("groups", ())]  # A list is a table of names.
    return document or None


def raised_paths(before: FileLimits, after: FileLimits) -> Iterator[Path]:
    """
    Yield the path of each thing that is new, and of each limit that allows more.

    A changed file of rules has its path, too.
    """
    old, new = _things(before), _things(after)
    yield from _added(new - old, after)
    for path in sorted(before.keys() | after.keys()):
        is_comparable = _owner(path) in old & new and _exists(path, new)
        if is_comparable and _allows_more(path, before, after):
            yield path


def dotted(path: Path) -> str:
    """
    Return *path* as a dotted key of TOML: a name with other characters is quoted.

    >>> dotted(("tenants", "shop.eu", "max_open_refunds"))
    'tenants."shop.eu".max_open_refunds'
    """
    return ".".join(
        each if _BARE_KEY.fullmatch(each) else json.dumps(each) for each in path
    )


def _of_policy(limits: FileLimits) -> FileLimits:
    return {path: value for path, value in limits.items() if path[0] == "policy"}


def _without_policy(limits: FileLimits) -> FileLimits:
    return {path: value for path, value in limits.items() if path[0] != "policy"}


def _hash(text: str) -> str:
    """Return the SHA-256 of *text*: only people can see whether rules allow more."""
    return hashlib.sha256(text.encode()).hexdigest()


def _change(before: Any, after: Any) -> Change:
    sides = {"before": before, "after": after}
    return {side: value for side, value in sides.items() if value is not None}


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield each value and its path; the members of a list are names."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _leaves(each, (*path, name))
    elif isinstance(value, list):
        yield from (((*path, each), True) for each in value)
    elif value is not None:
        yield path, value


def _is_on(path: Path, value: Any, limits: FileLimits) -> bool:
    """Return whether a limit is in force: some can be off, and two belong to others."""
    match path:
        case ("networks", _, "max_fee_factor"):
            return bool(value != 0)
        case ("networks", _, "finality"):
            return bool(value != "confirmations")
        case ("networks", _, "automatic_stop", "failed_of_last"):
            return (*path[:3], "max_failed_percent") in limits
        case ("networks", _, "automatic_stop", "window_minutes"):
            amounts = (*path[:3], "max_amounts")
            return (*path[:3], "max_refunds") in limits or any(
                each[:4] == amounts for each in limits
            )
    return True


def _things(limits: FileLimits) -> frozenset[Path]:
    """Return the paths of the networks, tokens and tenants."""
    return frozenset(_owner(path) for path in limits)


def _owner(path: Path) -> Path:
    """Return the path of the network, token or tenant that *path* belongs to."""
    is_of_token = path[0] == "networks" and path[2] == "tokens"
    return path[:4] if is_of_token else path[:2]


def _added(new: frozenset[Path], after: FileLimits) -> Mapping[Path, Mapping[str, Any]]:
    """Return the values of each thing that is *new*; a network has its tokens'."""
    found = dict[Path, dict[str, Any]]()
    for path in sorted(after):
        owner = _owner(path)
        if owner in new:
            thing = owner[:2] if owner[:2] in new else owner
            found.setdefault(thing, {})[dotted(path[len(thing) :])] = after[path]
    return found


def _exists(path: Path, things: frozenset[Path]) -> bool:
    """Return whether *things* has the network and the token that a limit is about."""
    match path:
        case ("networks", network, "automatic_stop", "max_amounts", token):
            return ("networks", network, "tokens", token) in things
        case ("tenants", _, "networks", network, "tokens", token, _):
            return ("networks", network, "tokens", token) in things
        case ("tenants", _, "networks", network, _):
            return ("networks", network) in things
    return True


def _allows_more(path: Path, before: FileLimits, after: FileLimits) -> bool:
    old, new = before.get(path), after.get(path)
    rule = find_rule(path)
    if old == new:
        return False
    if rule is LimitComparison.GRANT:
        return new is not None
    if rule is LimitComparison.SIGNER:
        is_removed = new is None
        return _has_signer(path, after if is_removed else before) is not is_removed
    if rule is LimitComparison.FIXED:
        return True
    if old is None or new is None:
        return new is None
    is_higher = _number(new) > _number(old)
    return (
        is_higher if rule is not LimitComparison.LEAST else _number(new) < _number(old)
    )


def _has_signer(path: Path, limits: FileLimits) -> bool:
    """Return whether the tenant of *path* has a key that must sign its requests."""
    return any(each[:3] == path[:3] for each in limits)


def _number(value: Any) -> Decimal:
    # Amounts are decimal strings, and so are integers that JSON readers would round.
    return Decimal(str(value))


def _has(things: frozenset[Path], part: str) -> bool:
    return any(each[0] == part for each in things)


@dataclass(frozen=True, slots=True)
class Files:
    """What the networks file and the tenants file have; None: there is no such file."""

    networks: Mapping[str, Network]
    tenants: Mapping[str, Tenant] | None


def keep_limits(files: Files, before: FileLimits, after: FileLimits) -> Files | None:
    """
    Return *files*, whose limits are *after*, with what they raise as in *before*.

    A new network, token, tenant or caller is left out.  Return None if that is not
    possible: a rule or a key is known by its hash only, and what is left may not be
    valid.  The caller compares the result with the accepted limits.
    """
    models: dict[str, dict[str, Any]] = {
        "networks": dict(files.networks),
        "tenants": dict(files.tenants or {}),
    }
    changed: dict[tuple[str, str], dict[str, Any]] = {}
    try:
        for part, name, *rest in raised_paths(before, after):
            if not rest:
                del models[part][name]
                continue
            model = models[part][name]
            document = changed.setdefault((part, name), model.model_dump())
            _put(document, rest, before.get((part, name, *rest)))
        for (part, name), document in changed.items():
            models[part][name] = type(models[part][name]).model_validate(document)
    except (LookupError, TypeError, ValidationError):
        return None
    tenants = None if files.tenants is None else models["tenants"]
    return Files(models["networks"], tenants)


def _put(document: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set what *document* has at *path*, or remove it if *value* is None."""
    first, *rest = path
    if isinstance(document.get(first), tuple):  # The members of a list are names.
        document[first] = tuple(each for each in document[first] if [each] != rest)
    elif rest:
        _put(document[first], rest, value)
    elif value is None:
        del document[first]
    else:
        document[first] = value
