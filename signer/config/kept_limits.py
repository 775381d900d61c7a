"""Files with what they raise put back to the accepted limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from signer.config.file_limits import FileLimits, raised_paths
from signer.config.networks import Network
from signer.config.tenants import Tenant


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
