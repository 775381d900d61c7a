"""
Sign with keys in an HSM: what programs import from hotwallet.

``__init__.pyi`` is the list of names, with the module that each one is in.  A module is
imported when its name is first used.  So ``PKCS11Backend`` does not import eth-account,
and a name whose extra is not installed fails alone.
"""

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn


_STUB = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
_NAMES = {
    name: (module, attribute)
    for module, attribute, name in re.findall(
        r"^from (\S+) import (\w+) as _?(\w+)$", _STUB, re.MULTILINE
    )
}

__all__ = sorted(_NAMES)  # noqa: PLE0605  The stub has the literal names.


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _NAMES[name]
    try:
        found = getattr(import_module(module), attribute)
    except ModuleNotFoundError as e:
        raise _explained(e, f"{__name__}.{name}") from None
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})


def main() -> NoReturn:
    """Run the command ``hotwallet``."""
    try:
        getattr(import_module(_NAMES["cli"][0]), "main")()  # noqa: B009
    except ModuleNotFoundError as e:
        sys.exit(f"error: {_explained(e, 'this command', 'service')}")
    sys.exit(0)


_EXTRAS = {
    "boto3": "kms",
    "botocore": "kms",
    "click": "service",
    "cryptography": "audit",
    "google": "gcp",
    "google_crc32c": "gcp",
    "pkcs11": "pkcs11",
    "psycopg": "postgresql",
    "pytest": "testing",
    "rfc8785": "audit",
    "cedarpy": "account",
    "eth_abi": "account",
    "eth_account": "account",
    "eth_keys": "account",
    "eth_typing": "account",
    "eth_utils": "account",
    "hexbytes": "account",
    "pydantic": "account",
}
"""The smallest extra that has a package; that of others is ``service``."""


def _explained(
    error: ModuleNotFoundError, what: str, extra: str | None = None
) -> ModuleNotFoundError:
    """Return *error* with the extra that brings the package which is missing."""
    missing = (error.name or "").partition(".")[0]
    if missing in {"", __name__, *_OWN}:
        return error
    extra = extra or _EXTRAS.get(missing, "service")
    return ModuleNotFoundError(
        f"{what} needs the package {missing}: pip install 'hotwallet[{extra}]'",
        name=error.name,
    )


_OWN = {module.partition(".")[0] for module, _ in _NAMES.values()}
