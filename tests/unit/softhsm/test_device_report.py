"""``hotwallet hsm prove``: the report about a device, with and without weaknesses."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from backends.pkcs11 import PKCS11Backend
from signer.config.settings import Settings
from signer.crypto.der import parse_public_key
from signer.ports.key_backend import KeyId
from softhsm.cli import hsm
from softhsm.layout import Layout
from tests.fixtures.hsm_stand_in import NAME


pytestmark = pytest.mark.needs("cc")

LOCAL, EXTRACTABLE = "163", "162"


@pytest.fixture
def environ(
    stand_in_environ: dict[str, str],
    softhsm_key: KeyId,
    softhsm_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> pytest.MonkeyPatch:
    """The environment of an operator with the stand-in of an HSM."""
    for name, value in {
        **stand_in_environ,
        "APP_ENV": "test",
        "PKCS11_KEY_ID": softhsm_key,
        "PKCS11_PIN_FILE": str(Layout.of(softhsm_home).pin),
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def _prove(out: Path, *options: str) -> Result:
    return CliRunner().invoke(hsm, ["prove", "--out", str(out), *options])


@pytest.mark.usefixtures("environ")
def test_a_report_of_a_proved_key(
    tmp_path: Path,
    softhsm: PKCS11Backend,
    softhsm_key: KeyId,
    softhsm_settings: Settings,
) -> None:
    """It has what an auditor needs, and neither label, id, PIN nor path."""
    out = tmp_path / "report.json"

    finished = _prove(out, "--signatures", "20")

    text = out.read_text(encoding="utf-8")
    report = json.loads(text)
    assert finished.exit_code == 0, finished.output
    assert finished.stdout.splitlines()[-1] == (
        "proved: production may sign with this key"
    )
    address = parse_public_key(softhsm.public_key(softhsm_key)).address
    assert (report["address"], report["is_proved"]) == (address, True)
    assert report["device"]["token"] == f"{NAME} {NAME}"
    assert report["attributes"]["CKA_LOCAL"] is True
    assert report["attributes"]["CKA_EXTRACTABLE"] is False
    assert report["signatures"]["valid"] == 20
    assert 0 <= report["signatures"]["with_high_s"] <= 20
    assert {each["state"] for each in report["checks"]} == {"ok"}
    pin = Layout.of(softhsm_settings.home).pin.read_text().strip()
    hidden = (pin, softhsm_key, softhsm_settings.pkcs11_token_label, str(tmp_path))
    assert not [each for each in hidden if each in text]


def test_a_report_names_why_production_refuses(
    environ: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environ.setenv("STAND_IN_FALSE", LOCAL)
    out = tmp_path / "report.json"

    finished = _prove(out, "--signatures", "1", "--json")

    report = json.loads(out.read_text(encoding="utf-8"))
    assert finished.exit_code == 1
    assert json.loads(finished.stdout) == report
    assert [each["code"] for each in report["refusals"]] == ["pkcs11-key-imported"]
    assert report["attributes"]["CKA_LOCAL"] is False


def test_a_report_of_a_failed_check(
    environ: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is said of a device that cannot be opened."""
    environ.setenv("PKCS11_KEY_ID", "00ff")
    out = tmp_path / "report.json"

    finished = _prove(out)

    report = json.loads(out.read_text(encoding="utf-8"))
    assert finished.exit_code == 1
    assert finished.stdout == (
        "not proved: the check key failed; run: hotwallet softhsm doctor\n"
    )
    assert report["is_proved"] is False
    assert "device" not in report
