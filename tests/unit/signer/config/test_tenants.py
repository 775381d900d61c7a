"""The tenants file is read strictly, and maps each token to one tenant."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from signer.config.networks import Network
from signer.config.tenants import (
    NO_LIMITS,
    EventType,
    TenantRegistry,
    TokenLimits,
    Webhook,
    check_tenants,
    is_tenant_name,
    load_tenants,
)
from signer.errors import ConfigurationError, UnknownTenantError
from signer.model.refund import OPERATOR
from tests.support.signed_requests import RequestKey


NETWORKS = {
    "local": Network.model_validate(
        {
            "chain_id": 31337,
            "rpc_urls": ["http://127.0.0.1:8545"],
            "tokens": {
                "TUSD": {
                    "address": "0x5FbDB2315678afecb367f032d93F642f64180aa3",
                    "decimals": 6,
                    "max_amount": "1000",
                }
            },
        }
    )
}

GOOD = """\
[tenants.shop]
subjects = ["shop-1", "shop-2"]
client_ids = ["the shop's gateway"]
max_open_refunds = 100
requests_per_minute = 600
max_concurrent_requests = 8
max_waiting_requests = 2

[tenants.shop.networks.local]
gas_per_hour = 20_000_000

[tenants.shop.networks.local.tokens.TUSD]
min_amount = "0.10"
max_amount = "200"
hourly_limit = "200"
daily_limit = "5000.5"
daily_limit_per_recipient = "300"

[tenants."auth0|x@y"]
client_ids = ["shop-1"]
"""


def _load(path: Path, text: str) -> TenantRegistry:
    path.write_text(text, encoding="utf-8")
    registry = load_tenants(path)
    check_tenants(registry, NETWORKS)
    return registry


def _refused(path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        _load(path, text)
    refusals = caught.value.refusals

    assert {refusal.code for refusal in refusals} == {"tenants-misconfigured"}
    assert all(refusal.message.startswith("TENANTS_FILE: ") for refusal in refusals)
    assert str(path) not in str(caught.value)
    return [refusal.message for refusal in refusals]


SIGNING = """\
[tenants.shop]
subjects = ["shop-1"]

[tenants.shop.request_keys]
gateway = '''{key}'''

[tenants.other]
client_ids = ["other"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return where the test's file goes."""
    return tmp_path / "tenants.toml"


def test_valid_file(file: Path) -> None:
    """Every field is read.  Omitted ones mean no limit, but of open refunds."""
    registry = _load(file, GOOD)

    shop, other = registry.limits("shop"), registry.limits("auth0|x@y")
    assert (shop.max_open_refunds, shop.requests_per_minute) == (100, 600)
    assert (shop.max_concurrent_requests, shop.max_waiting_requests) == (8, 2)
    assert (other.max_open_refunds, other.requests_per_minute) == (10_000, None)
    assert shop.networks["local"].gas_per_hour == 20_000_000
    limits = shop.token_limits("local", "TUSD")
    token = NETWORKS["local"].tokens["TUSD"]
    assert limits.units("min_amount", token) == 100_000
    assert limits.units("daily_limit", token) == 5_000_500_000
    assert other.token_limits("local", "TUSD") == TokenLimits()
    assert shop.token_limits("local", "OTHER") == TokenLimits()
    assert registry.limits("unknown") == NO_LIMITS
    assert registry.requests_per_minute() == {"shop": 600}


@pytest.mark.parametrize(
    ("subject", "client_id", "tenant"),
    [
        ("shop-1", None, "shop"),
        ("shop-2", None, "shop"),
        ("shop-1", "the shop's gateway", "shop"),
        ("unknown", "the shop's gateway", "shop"),
        ("shop-2", "unknown", "shop"),
        ("unknown", "shop-1", "auth0|x@y"),
    ],
)
def test_a_subject_or_a_client_id_decides(
    file: Path, subject: str, client_id: str | None, tenant: str
) -> None:
    """One claim cannot stand in for the other: RFC 9068, section 5."""
    assert tenant == _load(file, GOOD).find(subject, client_id)


@pytest.mark.parametrize(
    ("subject", "client_id", "why"),
    [
        ("shop", None, "no tenant"),
        ("auth0|x@y", None, "no tenant"),
        ("SHOP-1", None, "no tenant"),
        ("the", "", "no tenant"),
        ("shop-2", "shop-1", "two tenants"),
    ],
)
def test_an_unknown_or_ambiguous_token(
    file: Path, subject: str, client_id: str | None, why: str
) -> None:
    """The name of a tenant is not a subject, and no claim precedes the other."""
    with pytest.raises(UnknownTenantError, match=why):
        _load(file, GOOD).find(subject, client_id)


def test_without_a_file_each_subject_is_a_tenant() -> None:
    registry = load_tenants(None)
    check_tenants(registry, NETWORKS)

    assert registry.find("gateway-1", "any") == "gateway-1"
    assert registry.limits("gateway-1") == NO_LIMITS
    assert NO_LIMITS.max_open_refunds is None
    assert NO_LIMITS.gas_limit("local") is None
    assert set(NO_LIMITS.model_dump(exclude_defaults=True)) == {
        "gas_per_hour",
        "max_open_refunds",
    }
    assert registry.requests_per_minute() == {}
    for name, valid in (
        ("shop", True),
        ("auth0|x@y", True),
        ("", False),
        (OPERATOR, False),
    ):
        assert valid == is_tenant_name(name)


SHOP = '[tenants.shop]\nsubjects = ["shop-1"]\n'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "tenants: Field required"),
        ("tenants = {}", "at least 1 item"),
        ("[tenants.shop]", "needs subjects or client_ids"),
        ("[tenants.shop]\nsubjects = []", "needs subjects or client_ids"),
        ("[tenants.shop]\nsubjects = 'shop'", "valid tuple"),
        ("[tenants.shop]\nsubjects = ['']", "subjects.0"),
        ("[tenants.shop]\nsubjects = ['a b']", "subjects.0"),
        ("[tenants.shop]\nsubjects = ['a', \"a\\u000a\"]", "subjects.1"),
        (f"[tenants.shop]\nsubjects = ['{'a' * 129}']", "subjects.0"),
        ("[tenants.shop]\nclient_ids = ['é']", "client_ids.0"),
        (f"[tenants.'{OPERATOR}']\nsubjects = ['a']", "hotwallet operator"),
        (f"[tenants.{'a' * 129}]\nsubjects = ['a']", "tenants."),
        (f"{SHOP}unknown = 1", "Extra inputs"),
        (f"{SHOP}max_open_refunds = 0", "max_open_refunds"),
        (f"{SHOP}max_open_refunds = 1.5", "max_open_refunds"),
        (f"{SHOP}max_open_refunds = true", "max_open_refunds"),
        (f"{SHOP}requests_per_minute = -1", "requests_per_minute"),
        (f"{SHOP}max_concurrent_requests = 0", "max_concurrent_requests"),
        (f"{SHOP}max_waiting_requests = '2'", "max_waiting_requests"),
        (f"{SHOP}[tenants.shop.networks.local]\ngas_per_hour = 20_999", "gas_per_hour"),
        (f"{SHOP}[tenants.b]\nsubjects = ['shop-1']", "shop-1 is listed twice"),
        ("[tenants.a]\nsubjects = ['s', 's']", "s is listed twice"),
        (
            "[tenants.a]\nclient_ids = ['c']\n[tenants.b]\nclient_ids = ['c']",
            "c is listed twice, in tenants.b and tenants.a",
        ),
        (
            "[tenants.a]\nsubjects = ['b']\n[tenants.b]\nclient_ids = ['c']",
            "b is in tenants.a, and must be in tenants.b",
        ),
        ("[tenants.shop", "not TOML"),
    ],
)
def test_malformed_files(file: Path, text: str, why: str) -> None:
    (message,) = _refused(file, text)

    assert why in message


TOKEN = f"{SHOP}[tenants.shop.networks.local.tokens.TUSD]\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"{SHOP}[tenants.shop.networks.base]", "networks.base: NETWORKS_FILE has no"),
        (f"{SHOP}[tenants.shop.networks.local.tokens.X]", "tokens.X: NETWORKS_FILE"),
        (
            f"{SHOP}[tenants.shop.networks.local]\ngas_per_hour = 1_999_999",
            "local: gas_per_hour must not be less than the max_gas of a token",
        ),
        (f"{TOKEN}max_amount = '-1'", "TUSD: max_amount must be plain"),
        (f"{TOKEN}max_amount = '0.0000001'", "TUSD: max_amount must have at most 6"),
        (f"{TOKEN}min_amount = '0'", "TUSD: min_amount must be above zero"),
        (f"{TOKEN}min_amount = '1000.1'", "min_amount must not be more"),
        (f"{TOKEN}min_amount = '2'\nmax_amount = '1'", "min_amount must not be more"),
        (f"{TOKEN}approve_above = '1000'", "approve_above must be less than"),
        (f"{TOKEN}approve_above = '2'\nmax_amount = '2'", "approve_above must be less"),
        (f"{TOKEN}approve_above = '1,5'", "approve_above must be plain"),
        (f"{TOKEN}hourly_limit = '999'", "hourly_limit must not be less"),
        (f"{TOKEN}max_amount = '9'\ndaily_limit = '8'", "daily_limit must not be less"),
        (f"{TOKEN}daily_limit_per_recipient = '1'", "daily_limit_per_recipient must"),
    ],
)
def test_limits_that_do_not_fit_the_networks(file: Path, text: str, why: str) -> None:
    (message,) = _refused(file, text)

    assert message.startswith("TENANTS_FILE: tenants.shop.networks.")
    assert why in message


def test_every_misfit_is_reported(file: Path) -> None:
    text = f"{TOKEN}max_amount = 'x'\nhourly_limit = 'y'\n[tenants.shop.networks.base]"

    assert len(_refused(file, text)) == 3


def test_a_tenant_may_have_request_keys(file: Path) -> None:
    """Public keys in PEM, in one form, by their ids."""
    key = RequestKey().public
    registry = _load(file, SIGNING.format(key=f"\n{key}\n"))

    assert registry.request_keys("shop") == {"gateway": key}
    assert registry.request_keys("other") == {}


@pytest.mark.parametrize("name", ["shop-1", "nameless"])
def test_an_unlisted_name_is_no_way_around_signatures(file: Path, name: str) -> None:
    """It has no keys, but it may not do without, if some tenant signs."""
    registry = _load(file, SIGNING.format(key=RequestKey().public))

    with pytest.raises(UnknownTenantError):
        registry.request_keys(name)
    assert _load(file, GOOD).request_keys(name) == {}
    assert TenantRegistry().request_keys(name) == {}


def test_a_private_key_is_refused_and_not_quoted(file: Path) -> None:
    """The file must have public keys; the message names the field."""
    with pytest.raises(ConfigurationError, match=r"docker/tenants\.example\.toml"):
        load_tenants(file)

    pem = RequestKey().pem.decode()
    (problem,) = _refused(file, SIGNING.format(key=pem))

    assert "tenants.shop.request_keys.gateway" in problem
    assert "must be the PEM of an Ed25519 or a P-256 public key" in problem
    assert not any(line in problem for line in pem.splitlines())


def test_two_tenants_do_not_share_a_request_key(file: Path) -> None:
    """What one tenant signed would be a request of the other as well."""
    key = RequestKey().public
    more = f"[tenants.other.request_keys]\nmine = '''{key}'''\n"
    (problem,) = _refused(file, SIGNING.format(key=key) + more)

    assert "mine of tenants.other is also a key of tenants.shop" in problem


URL = "https://gateway.example:8443/hook?id=7"


def _load_webhook(folder: Path, lines: str) -> TenantRegistry:
    path = folder / "tenants.toml"
    head = '[tenants.shop]\nsubjects = ["shop-1"]\n\n[tenants.shop.webhook]\n'
    path.write_text(head + lines, encoding="utf-8")
    return load_tenants(path)


def test_a_webhook(tmp_path: Path) -> None:
    """It belongs to each name that the tenant's refunds may have."""
    lines = f'url = "{URL}"\nevents = ["refund.failed"]\nsecret_file = "/run/shop"'
    webhooks = _load_webhook(tmp_path, lines).webhooks()

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
        _load_webhook(tmp_path, lines)
