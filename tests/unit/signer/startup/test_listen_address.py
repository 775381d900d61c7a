"""The guard refuses a service that is reachable without a trusted proxy."""

import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import pytest

from signer.config.settings import Settings
from signer.errors import ConfigurationError
from signer.startup.guard import check_settings


PRODUCTION = {
    "APP_ENV": "production",
    "USE_KMS": "true",
    "KMS_KEY_ID": "arn:aws:kms:eu-central-1:111122223333:alias/refunds",
    "AWS_REGION": "eu-central-1",
    "TENANTS_FILE": "/etc/hotwallet/tenants.toml",
    "AUDIT_SIGNING_KEY_FILE": "/run/secrets/audit.pem",
    "MAC_KEY_FILE": "/run/secrets/mac.key",
}


def _refused(environ: Mapping[str, str]) -> list[str]:
    """Return the codes of the refusals."""
    try:
        check_settings(Settings.from_env(environ), {})
    except ConfigurationError as e:
        return [refusal.code for refusal in e.refusals]
    return []


BINDS = {
    None: False,
    "": False,
    "127.0.0.1:8080": False,
    "127.9.9.9:80": False,
    "tcp://127.0.0.1:8080": False,
    "[::1]:8080": False,
    "localhost:8080": False,
    " unix:/run/hotwallet.sock ": False,
    "unix:///run/hotwallet.sock": False,
    "0.0.0.0:8080": True,
    "[::]:8080": True,
    ":8080": True,
    "10.0.0.7:8080": True,
    "api.internal:8080": True,
    "localhost.example:8080": True,
    "127.0.0.1.example:8080": True,
    "fd://3": True,
}
PROXIES = {
    None: (False, False),
    "": (False, False),
    " \t": (False, False),
    "10.0.0.7": (True, False),
    "10.0.0.0/8, fc00::/7": (True, False),
    "0.0.0.0/0": (True, True),
    "10.0.0.7,::/0": (True, True),
    "128.0.0.0/1": (True, True),
    "0.0.0.0/6": (True, True),
}


@pytest.mark.parametrize(
    ("app_env", "production"),
    [(None, True), (" ", True), ("Prod", True), ("TEST", False)],
)
def test_reachable_service_needs_a_trusted_proxy(
    app_env: str | None, production: bool
) -> None:
    """
    H15: production that other hosts can reach must name its proxies.

    An address that the guard cannot read counts as reachable.
    """
    for bind, proxies in product(BINDS, PROXIES):
        given = {"APP_ENV": app_env, "BIND": bind, "TRUSTED_PROXIES": proxies}
        environ = {k: v for k, v in (PRODUCTION | given).items() if v is not None}
        named, too_many = PROXIES[proxies]
        expected = [
            *["proxy-missing"] * (BINDS[bind] and not named),
            *["proxy-anybody"] * too_many,
        ]

        assert _refused(environ) == (expected if production else []), given


def test_shipped_containers_are_accepted() -> None:
    """The image listens beyond its host, and compose names its proxy's address."""
    docker = Path(__file__).parents[4] / "docker"
    image = (docker / "Dockerfile").read_text(encoding="utf-8")
    compose = (docker / "compose.yaml").read_text(encoding="utf-8")
    nginx = (docker / "nginx.conf").read_text(encoding="utf-8")
    (bind,) = re.findall(r"BIND=(\S+)", image)
    example = (docker.parent / ".env.example").read_text(encoding="utf-8")
    places = dict(re.findall(r"^  ([A-Z_]+): (/?[\w./:]+)$", compose, re.MULTILINE))
    named = re.findall(r"TRUSTED_PROXIES: (\S+)", compose)
    _, proxy = compose.split("\n  proxy:\n")
    shipped = PRODUCTION | {"BIND": bind}

    assert places["BIND"] == bind
    files = ("NETWORKS_FILE", "TENANTS_FILE", "MAC_KEY_FILE", "AUDIT_SIGNING_KEY_FILE")
    for place in ("BIND", "HOTWALLET_HOME", *files):
        # Compose overrides the value that the example has for a laptop.
        assert f"\n{place}=" in example
        assert place in places
    assert f"networks.toml:{places['NETWORKS_FILE']}:ro" in compose
    assert f"tenants.toml:{places['TENANTS_FILE']}:ro" in compose
    assert f"keys:{places['MAC_KEY_FILE'].removesuffix('/mac.key')}:ro" in compose
    signing = places["AUDIT_SIGNING_KEY_FILE"].removesuffix("/audit.pem")
    assert f"signing:{signing}:ro" in compose
    assert _refused(shipped) == ["proxy-missing"]
    worker = Settings.from_env(shipped)  # It has the image's BIND and no socket.
    assert check_settings(worker, {}, serving=False) == []

    for address in named:
        assert _refused({**shipped, "TRUSTED_PROXIES": address}) == []
    assert f"front: {{ipv4_address: {named[0]}}}" in proxy
    assert not any(address in proxy for address in named[1:])
    assert f"server api-refunds:{bind.rpartition(':')[2]};" in nginx
    assert re.findall(r"listen (\d+) ", nginx) == re.findall(r'"\d+:(\d+)"', compose)
