"""The settings of the Google Cloud KMS backend, as the guard checks them."""

import pytest

from backends.google_cloud_kms.plugin import PLUGIN
from dev.google_kms_emulator import RING
from signer.config.settings import Settings
from signer.errors import ConfigurationError
from signer.ports.backend_plugin import BackendConfig


KEY = f"{RING}/cryptoKeys/refunds/cryptoKeyVersions/1"
BASE = {"GOOGLE_CLOUD_KMS_KEY": KEY}


def _config(**environ: str) -> BackendConfig:
    return BackendConfig(Settings.from_env(environ), environ)


def _codes(**environ: str) -> list[str]:
    try:
        return [refusal.code for refusal in PLUGIN.refusals(_config(**environ))]
    except ConfigurationError as e:
        return [refusal.code for refusal in e.refusals]


@pytest.mark.parametrize(
    ("environ", "codes"),
    [
        ({}, ["kms-not-configured"]),
        ({"GOOGLE_CLOUD_KMS_KEY": " "}, ["kms-not-configured"]),
        ({"GOOGLE_CLOUD_KMS_KEY": "refunds"}, ["kms-not-configured"]),
        ({"GOOGLE_CLOUD_KMS_KEY": KEY.rpartition("/")[0]}, ["kms-not-configured"]),
        (BASE, []),
        (
            {**BASE, "GOOGLE_CLOUD_KMS_ALLOWED_KEYS": KEY[:-1] + "2"},
            ["kms-key-not-allowed"],
        ),
        ({**BASE, "GOOGLE_CLOUD_KMS_ALLOWED_KEYS": KEY[:-1] + "*"}, []),
        ({**BASE, "GOOGLE_CLOUD_KMS_ALLOWED_KEYS": "*"}, ["settings-invalid"]),
        ({**BASE, "GOOGLE_CLOUD_KMS_ALLOWED_KEYS": "projects/*"}, ["settings-invalid"]),
        ({**BASE, "GOOGLE_CLOUD_KMS_MAX_ATTEMPTS": "4"}, ["settings-invalid"]),
        ({**BASE, "GOOGLE_CLOUD_KMS_TIMEOUT_MS": "x"}, ["settings-invalid"]),
    ],
)
def test_unusable_settings_are_refused(
    environ: dict[str, str], codes: list[str]
) -> None:
    assert _codes(**environ) == codes


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://kms.example",
        "http://10.0.0.1:80",
        "http://localhost:80",
        "https://a@kms.example",
        "https://kms.example/path",
        "https://kms.example?x",
        "file:///etc",
        "x",
    ],
)
def test_no_token_is_sent_to_an_insecure_endpoint(endpoint: str) -> None:
    """Not in development either: the token may be a real one."""
    assert _codes(**BASE, GOOGLE_CLOUD_KMS_ENDPOINT=endpoint) == ["settings-invalid"]


def test_production_refuses_an_endpoint() -> None:
    endpoint = {"GOOGLE_CLOUD_KMS_ENDPOINT": "https://kms.example"}
    refusal = PLUGIN.production_refusal(_config(**BASE, **endpoint))

    assert refusal is not None
    assert refusal.code == "kms-endpoint-forbidden"
    assert PLUGIN.production_refusal(_config(**BASE)) is None


def test_opening_sends_nothing_and_reads_no_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent")

    backend = PLUGIN.open(_config(**BASE))

    assert backend.name == PLUGIN.name
    assert backend.concurrency >= 1
