"""The files of keys that sign events, and which webhooks they sign for."""

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from api.backend_factories import open_webhook_sender
from api.key_files import create_webhook_key, open_endpoints, open_public_keys
from signer.config.settings import Settings
from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import ConfigurationError, InvalidInputError
from signer.webhooks.signatures import (
    PrivateKey,
    Secret,
    read_private_keys,
    read_public_keys,
)


URL = "https://gateway.example/hook"


def _settings(home: Path, **environ: str) -> Settings:
    return Settings.from_env(
        {"APP_ENV": "test", "HOTWALLET_HOME": str(home / "home"), **environ}
    )


def _tenants(webhook: Mapping[str, Any] | None) -> TenantRegistry:
    shop = Tenant.model_validate(
        {"subjects": ["shop-1", "shop-2"], "webhook": webhook}, strict=True
    )
    other = Tenant.model_validate({"subjects": ["other"]}, strict=True)
    return TenantRegistry({"shop": shop, "other": other})


def _secret(folder: Path) -> Path:
    path = folder / "shop.whsec"
    path.touch(mode=0o600)
    path.write_text(Secret.generate().format(), encoding="ascii")
    return path


def test_a_new_key(tmp_path: Path) -> None:
    """The private file is the owner's alone; the public one may be copied."""
    out = tmp_path / "webhook.key"
    public, path = create_webhook_key(out, add=False)

    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert [key.public for key in read_private_keys(out)] == [public]
    assert read_public_keys(path) == [public]
    assert path == tmp_path / "webhook.key.pub"


def test_an_added_key(tmp_path: Path) -> None:
    """It comes first, and the old one signs as well; nothing is overwritten."""
    out = tmp_path / "webhook.key"
    with pytest.raises(InvalidInputError, match="does not exist"):
        create_webhook_key(out, add=True)
    first, path = create_webhook_key(out, add=False)
    second, _ = create_webhook_key(out, add=True)
    before = out.read_bytes()
    with pytest.raises(InvalidInputError, match="exists"):
        create_webhook_key(out, add=False)

    assert out.read_bytes() == before
    assert [key.public for key in read_private_keys(out)] == [second, first]
    assert read_public_keys(path) == [second, first]


def test_development_needs_no_configuration(tmp_path: Path) -> None:
    """One key is created, and every process finds it."""
    settings = _settings(tmp_path)
    endpoints = open_endpoints(settings, _tenants({"url": URL}))
    (key,) = endpoints["shop"].keys

    assert isinstance(key, PrivateKey)
    assert open_public_keys(settings) == [key.public]
    # Refunds from before two subjects became one tenant have their names.
    assert endpoints.keys() == {"shop", "shop-1", "shop-2"}


def test_without_webhooks_nothing_is_created(tmp_path: Path) -> None:
    assert open_endpoints(_settings(tmp_path), _tenants(None)) == {}
    assert not (tmp_path / "home").exists()


def test_production_needs_keys_and_https(tmp_path: Path) -> None:
    """A secret of the tenant suffices; http does not."""
    production = _settings(tmp_path, APP_ENV="production")
    with pytest.raises(ConfigurationError, match="WEBHOOK_SIGNING_KEY_FILE"):
        open_endpoints(production, _tenants({"url": URL}))
    secret = str(_secret(tmp_path))
    tenants = _tenants({"url": URL, "secret_file": secret})
    assert len(open_endpoints(production, tenants)["shop"].keys) == 1
    with pytest.raises(ConfigurationError, match="must be https"):
        open_endpoints(
            production, _tenants({"url": "http://a.example/", "secret_file": secret})
        )
    assert open_public_keys(production) == ()


def test_both_kinds_of_keys_sign(tmp_path: Path) -> None:
    out = tmp_path / "webhook.key"
    public, path = create_webhook_key(out, add=False)
    settings = _settings(
        tmp_path,
        WEBHOOK_SIGNING_KEY_FILE=str(out),
        WEBHOOK_PUBLIC_KEYS_FILE=str(path),
    )
    tenants = _tenants({"url": URL, "secret_file": str(_secret(tmp_path))})

    assert len(open_endpoints(settings, tenants)["shop"].keys) == 2
    assert open_public_keys(settings) == [public]


def test_files_that_are_not_usable(tmp_path: Path) -> None:
    """The refusal names the variable or the tenant, and no content."""
    path = tmp_path / "keys"
    path.write_text("canary-48213", encoding="ascii")
    path.chmod(0o600)
    tenants = _tenants({"url": URL})
    for name in ("WEBHOOK_SIGNING_KEY_FILE", "WEBHOOK_PUBLIC_KEYS_FILE"):
        settings = _settings(tmp_path, **{name: str(path)})
        with pytest.raises(ConfigurationError, match=name) as caught:
            _ = open_endpoints(settings, tenants), open_public_keys(settings)
        assert "canary" not in str(caught.value)
    missing = _tenants({"url": URL, "secret_file": str(tmp_path / "missing")})
    with pytest.raises(ConfigurationError, match=r"secret_file of shop.*FileNotFound"):
        open_endpoints(_settings(tmp_path), missing)


def test_where_events_may_be_sent(tmp_path: Path) -> None:
    """In production over https, to public addresses and those that are allowed."""
    production = {"APP_ENV": "production"}
    networks = {"WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8"}

    def send(url: str, **environ: str) -> str | None:
        sender = open_webhook_sender(_settings(tmp_path, **environ))
        return sender.send(url, {}, b"{}")

    assert send("https://127.0.0.1:9/", **production) == "address-refused"
    assert send("https://127.0.0.1:9/", **production, **networks) == "unreachable"
    assert send("http://127.0.0.1:9/", **production, **networks) == "url-refused"
    assert send("http://127.0.0.1:9/") == "unreachable"
    assert send("http://10.0.0.1:9/") == "address-refused"


def test_a_home_that_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = Settings.from_env(
        {"APP_ENV": "test", "HOTWALLET_HOME": str(tmp_path / "file" / "home")}
    )
    with pytest.raises(ConfigurationError, match=r"webhook\.key cannot be created"):
        open_public_keys(settings)
