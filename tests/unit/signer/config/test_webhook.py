"""The webhook of a tenant in the tenants file."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from signer.config.tenants import EventType, TenantRegistry, Webhook, load_tenants
from signer.errors import ConfigurationError


URL = "https://gateway.example:8443/hook?id=7"


def _load(folder: Path, lines: str) -> TenantRegistry:
    path = folder / "tenants.toml"
    head = '[tenants.shop]\nsubjects = ["shop-1"]\n\n[tenants.shop.webhook]\n'
    path.write_text(head + lines, encoding="utf-8")
    return load_tenants(path)


def test_a_webhook(tmp_path: Path) -> None:
    """It belongs to each name that the tenant's refunds may have."""
    lines = f'url = "{URL}"\nevents = ["refund.failed"]\nsecret_file = "/run/shop"'
    webhooks = _load(tmp_path, lines).webhooks()

    assert webhooks.keys() == {"shop", "shop-1"}
    webhook = webhooks["shop"]
    assert (webhook.url, webhook.secret_file) == (URL, Path("/run/shop"))
    assert webhook.is_https
    assert webhook.wants(EventType.FAILED)
    assert not webhook.wants(EventType.CONFIRMED)
    plain = Webhook(url="http://127.0.0.1:4242/")
    assert all(plain.wants(each) for each in EventType)  # By default.
    assert not plain.is_https
    assert TenantRegistry().webhooks() == {}


@pytest.mark.parametrize(
    "url",
    [
        *("", "gateway.example", "ftp://gateway.example/", "https:///hook"),
        *("https://user@gateway.example/", "https://user:canary@gateway.example/"),
        *("https://gateway.example/#x", "https://gateway.example:0/"),
        *("https://gateway.example:x/", "https://gateway.example:65536/"),
        *("https://[::1/", "https://gateway.example/a b"),
        *("https://gateway.example/\u00e4", "https://gateway.example/" + "x" * 2000),
    ],
)
def test_urls_that_are_none(url: str) -> None:
    """The error does not quote it: it may have a password."""
    with pytest.raises(ValidationError, match="https URL") as caught:
        Webhook(url=url)

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (f'url = "{URL}"\nevents = ["refund.paid"]', "events.0: .*refund.accepted"),
        (f'url = "{URL}"\nevents = [1]', "events.0"),
        (f'url = "{URL}"\nsecret_file = ""', "secret_file"),
        (f'url = "{URL}"\nsecret = "x"', "secret"),
        ("events = []", "url"),
    ],
)
def test_mistakes(tmp_path: Path, lines: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=f"shop.webhook.{problem}"):
        _load(tmp_path, lines)
