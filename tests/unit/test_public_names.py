"""What programs import from ``hotwallet``."""

import subprocess
import sys

import pytest

import hotwallet


def test_every_name_of_the_stub_exists() -> None:
    for name in vars(hotwallet)["__all__"]:
        assert getattr(hotwallet, name) is not None
        assert name in dir(hotwallet)
    with pytest.raises(AttributeError, match="has no attribute 'Wallet'"):
        _ = hotwallet.Wallet  # type: ignore[attr-defined]


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("missing", "name", "extra"),
    [
        ("eth_account", "HSMAccount", "account"),
        ("cryptography", "CheckpointVerifier", "audit"),
        ("boto3", "build_kms_client", "kms"),
        ("pkcs11", "PKCS11Backend", "pkcs11"),
        ("pytest", "KeyBackendContract", "testing"),
        ("sqlalchemy", "SQLStore", "service"),
    ],
)
def test_a_missing_package_names_its_extra(missing: str, name: str, extra: str) -> None:
    finished = _run(
        f"import sys; sys.modules[{missing!r}] = None; import hotwallet\n"
        f"hotwallet.{name}"
    )

    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: hotwallet.{name} needs the package {missing}:"
        f" pip install 'hotwallet[{extra}]'"
    )


def test_a_command_without_its_packages_is_one_line() -> None:
    finished = _run(
        "import sys; sys.modules['click'] = None; import hotwallet\nhotwallet.main()"
    )

    assert finished.returncode == 1
    assert finished.stderr == (
        "error: this command needs the package click:"
        " pip install 'hotwallet[service]'\n"
    )


def test_a_missing_module_of_ours_is_no_missing_extra() -> None:
    """It is a bug, so its own message is shown."""
    finished = _run(
        "import sys; sys.modules['signer.account'] = None\n"
        "import hotwallet; hotwallet.HSMAccount"
    )

    assert "extra" not in finished.stderr
    assert "pip install" not in finished.stderr
    assert "signer.account" in finished.stderr
