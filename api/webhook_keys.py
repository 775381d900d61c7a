"""Loads the keys that sign events for webhooks; outside production, creates one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from signer.config.settings import Role, Settings
from signer.config.tenants import TenantRegistry
from signer.errors import ConfigurationError, InvalidInputError, Refusal
from signer.private_files import create_in_home, write_whole
from signer.webhooks.endpoint import Endpoint, Endpoints
from signer.webhooks.signatures import (
    PrivateKey,
    SigningKey,
    WebhookPublicKey,
    read_private_keys,
    read_public_keys,
    read_secrets,
)


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
