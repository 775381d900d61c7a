"""
The files of keys that are no wallets': of row MACs, webhooks and audit checkpoints.

Outside production a missing one is created in ``HOTWALLET_HOME``.  Any number of
processes may do so at once: they all get the same key.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from signer.audit.checkpoints import CheckpointKey
from signer.config.settings import Role, Settings
from signer.config.tenants import TenantRegistry
from signer.errors import ConfigurationError, InvalidInputError, Refusal
from signer.private_files import create_in_home, create_once, write_whole
from signer.row_macs import RowMACs, key_number
from signer.webhooks.endpoint import Endpoint, Endpoints
from signer.webhooks.signatures import (
    PrivateKey,
    SigningKey,
    WebhookPublicKey,
    read_private_keys,
    read_public_keys,
    read_secrets,
)


Derive = Callable[[str], bytes]


class MACKeyChange(NamedTuple):
    """
    What was done to a key file.

    ``action`` is created, added, activated or unchanged, ``key_id`` the key it is
    about, and ``active_id`` the key that makes new MACs.
    """

    action: str
    key_id: str
    active_id: str


def create_mac_key(
    out: Path, arn: str | None = None, derive: Derive | None = None
) -> MACKeyChange:
    """
    Create a file with one MAC key at *out*: a new one, or that of *arn* in KMS.

    *derive* returns the key of an ARN, here and in the next functions.
    """
    new = _generate_line(1, arn, derive)
    if not create_once(out, lambda: new):
        raise InvalidInputError(f"{out} exists: --add adds a new key to it")
    return MACKeyChange("created", _key_id(new), _key_id(new))


def add_mac_key(
    out: Path, arn: str | None = None, derive: Derive | None = None
) -> MACKeyChange:
    """
    Append a new key to *out*, with a higher number than the others.

    The key only verifies MACs until ``activate_mac_key``.
    """
    with _locked(out):
        lines = _read_lines(out, derive)
        new = _generate_line(max(map(_number, lines)) + 1, arn, derive)
        write_whole(out, b"".join([*lines, new]))
    return MACKeyChange("added", _key_id(new), _key_id(lines[0]))


def activate_mac_key(out: Path, derive: Derive | None = None) -> MACKeyChange:
    """
    Move the newest key of *out* to the first line, so it makes new MACs.

    If the key is there already, nothing is changed, so this can be repeated.  Every
    host must have loaded the file with the added key before.  A host that has not
    declares genuine audit records of the others forged.
    """
    action = "unchanged"
    with _locked(out):
        lines = _read_lines(out, derive)
        newest = _find_newest(out, lines)
        if lines[0] != newest:
            action = "activated"
            others = [line for line in lines if line != newest]
            write_whole(out, b"".join([newest, *others]))
    return MACKeyChange(action, _key_id(newest), _key_id(newest))


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Let one process of this host at a time change *out*, so that no key is lost."""
    # The lock is on the directory, because each change replaces the file.
    directory = os.open(out.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _find_newest(out: Path, lines: Sequence[bytes]) -> bytes:
    """Return the line with the highest number, which is the key that was added last."""
    highest = max(map(_number, lines))
    newest = [line for line in lines if _number(line) == highest]
    if len(newest) > 1:
        raise InvalidInputError(
            f"the ids in {out} do not show which of {len(newest)} keys is the newest:"
            " add another one with --add"
        )
    return newest[0]


def _generate_line(number: int, arn: str | None, derive: Derive | None) -> bytes:
    if arn is None or derive is None:
        return RowMACs.generate(number)
    return RowMACs.generate(number, (arn, derive(arn)))


def _read_lines(out: Path, derive: Derive | None) -> list[bytes]:
    """Return the lines of a valid file; each ends with a line feed."""
    if not out.exists():
        raise InvalidInputError(
            f"{out} does not exist: create it without --add and --activate"
        )
    RowMACs.load(out, derive)
    text = out.read_text(encoding="ascii")
    return [f"{line}\n".encode() for line in text.splitlines()]


def _key_id(line: bytes) -> str:
    return line.decode().partition(" ")[0]


def _number(line: bytes) -> int:
    return key_number(_key_id(line))


Key = TypeVar("Key")


def open_endpoints(settings: Settings, tenants: TenantRegistry) -> Endpoints:
    """Return the webhooks by tenant, with the keys that sign for them."""
    webhooks = tenants.webhooks()
    if not webhooks:
        return {}
    keys = _open_private_keys(settings)
    endpoints: dict[str, Endpoint] = {}
    for name, webhook in webhooks.items():
        own: Sequence[SigningKey] = ()
        if webhook.secret_file is not None:
            place = f"TENANTS_FILE: the secret_file of {name}"
            own = _read(place, webhook.secret_file, read_secrets)
        if not (keys or own):
            raise _refused(
                "no key signs for the webhook of a tenant: set"
                " WEBHOOK_SIGNING_KEY_FILE (hotwallet webhooks key --out FILE)"
            )
        if settings.is_production and not webhook.is_https:
            raise _refused(f"TENANTS_FILE: the webhook of {name} must be https")
        endpoints[name] = Endpoint(webhook, (*keys, *own))
    return endpoints


def open_public_keys(settings: Settings) -> Sequence[WebhookPublicKey]:
    """
    Return the keys with which receivers verify events; none if none are configured.
    """
    path = settings.webhook_public_keys_file
    if path is not None:
        return _read("WEBHOOK_PUBLIC_KEYS_FILE", path, read_public_keys)
    if settings.serve_role in {Role.REFUNDS, Role.SIGN}:
        return ()  # Such a process must not read a private key.
    if settings.is_production and settings.webhook_signing_key_file is None:
        return ()
    return [key.public for key in _open_private_keys(settings)]


def create_webhook_key(out: Path, *, add: bool) -> tuple[WebhookPublicKey, Path]:
    """
    Create a key in *out*, or *add* one; also write the public keys to ``OUT.pub``.

    Return the new key, and the file of public keys.
    """
    if out.exists() is not add:
        raise InvalidInputError(
            f"{out} does not exist: create it without --add"
            if add
            else f"{out} exists: --add adds a new key to it"
        )
    new = PrivateKey.generate()
    keys = [new, *(_read(str(out), out, read_private_keys) if add else ())]
    public = out.with_name(f"{out.name}.pub")
    # First the public file: a receiver must never miss a key that signs.
    write_whole(public, _lines([key.public.format() for key in keys]), mode=0o644)
    write_whole(out, _lines([key.format() for key in keys]))
    return new.public, public


def _open_private_keys(settings: Settings) -> Sequence[PrivateKey]:
    path = settings.webhook_signing_key_file
    if path is None and settings.is_production:
        return ()
    if path is None:
        path = settings.home / "webhook.key"
        create_in_home(
            path,
            lambda: _lines([PrivateKey.generate().format()]),
            code="webhooks-misconfigured",
            variable="WEBHOOK_SIGNING_KEY_FILE",
        )
    return _read("WEBHOOK_SIGNING_KEY_FILE", path, read_private_keys)


def _read(
    place: str, path: Path, read: Callable[[Path], Sequence[Key]]
) -> Sequence[Key]:
    try:
        return read(path)
    except OSError as e:
        problem = f"the file cannot be read ({type(e).__name__})"
    except ValueError as e:
        problem = str(e)
    raise _refused(f"{place}: {problem}")


def _lines(texts: Sequence[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def _refused(problem: str) -> ConfigurationError:
    return ConfigurationError(Refusal("webhooks-misconfigured", problem))


def load_or_create_key(path: Path) -> CheckpointKey:
    """Return the key at *path*, in HOTWALLET_HOME; create it if there is none."""
    create_in_home(
        path,
        lambda: CheckpointKey.generate().private_pem(),
        code="audit-misconfigured",
        variable="AUDIT_SIGNING_KEY_FILE",
    )
    return CheckpointKey.load(path)
