"""A key backend is selected by KEY_BACKEND and found by its entry point."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from api.bootstrap import check_configuration
from api.plugins import check_plugin, load_plugin, open_plugin
from dev.google_kms_emulator import RING
from signer.config.settings import Settings
from signer.errors import ConfigurationError, KeyNotFoundError
from signer.ports.backend_plugin import BackendConfig
from signer.ports.key_backend import KeyId
from tests.api.networks import write_networks
from tests.support.ledgers import write_mac_key


ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests" / "plugins" / "example_backend"
OURS = ["aws-kms", "google-cloud-kms", "pkcs11"]
KEY = f"{RING}/cryptoKeys/refunds/cryptoKeyVersions/1"


def _refusal(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_plugin(Settings.from_env(environ).backend_name)
    return str(caught.value)


@pytest.mark.parametrize("name", OURS)
def test_our_backends_are_entry_points(name: str) -> None:
    plugin = load_plugin(name)

    assert plugin.name == name
    assert plugin.key_setting.isupper()


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    message = _refusal({"KEY_BACKEND": "azure"})

    assert message.startswith("backend-misconfigured: KEY_BACKEND is none of ")
    for name in OURS:
        assert name in message


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the example's wheel is installed, as pip does."""
    folder = tmp_path_factory.mktemp("site")
    uv = str(Path(sys.executable).with_name("uv"))
    command = [uv, "pip", "install", "--quiet", "--offline", "--no-deps"]
    subprocess.run(
        [*command, "--no-build-isolation", "--target", str(folder), str(EXAMPLE)],
        check=True,
        env={**os.environ, "UV_CACHE_DIR": str(tmp_path_factory.mktemp("uv"))},
    )
    return folder


@pytest.fixture
def example(installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The same, where this process finds packages; and a folder of keys."""
    monkeypatch.syspath_prepend(str(installed))
    return tmp_path


def _config(**environ: str) -> BackendConfig:
    return BackendConfig(Settings.from_env(environ), environ)


def test_a_package_adds_a_backend(example: Path) -> None:
    """Its settings are its own variables, which the core does not know."""
    config = _config(KEY_BACKEND="example-files", EXAMPLE_FOLDER=str(example))
    plugin = load_plugin("example-files")
    backend = open_plugin(plugin, config)

    assert plugin.key_name(config) == "first"
    assert backend.name == "example-files"
    with pytest.raises(KeyNotFoundError):
        backend.sign_digest(KeyId("first"), bytes(32))


def test_an_installed_backend_is_not_used_unless_it_is_configured(
    example: Path,
) -> None:
    """Its module is not even imported."""
    program = """
import sys
from api.plugins import load_plugin
from signer.config.settings import Settings
print(load_plugin(Settings.from_env({}).backend_name).name)
print("example_backend" in sys.modules)
"""
    path = os.pathsep.join([*sys.path[:1], str(ROOT)])
    finished = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONPATH": path},
    )

    assert finished.stdout.split() == ["pkcs11", "False"]


def _claim(folder: Path, package: str, name: str, value: str) -> None:
    """Write what pip leaves of *package*, which claims the backend *name*."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[hotwallet.backends]\n{name} = {value}\n")


@pytest.mark.parametrize("name", OURS)
def test_no_package_replaces_our_backends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    _claim(tmp_path, "thief", name, "thief:PLUGIN")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert type(load_plugin(name)).__module__.partition(".")[0] in {
        "backends",
        "softhsm",
    }


def test_a_name_that_two_packages_claim_is_refused(
    example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which one is found first depends on the order of folders."""
    _claim(example / "site", "thief", "example-files", "thief:PLUGIN")
    monkeypatch.syspath_prepend(str(example / "site"))

    message = _refusal({"KEY_BACKEND": "example-files"})

    assert "(example-backend, thief); uninstall all but one" in message


BROKEN = {
    "no module": ("", "nowhere:PLUGIN", "needs the package nowhere"),
    "no object": ("", "broken:PLUGIN", "failed (AttributeError)"),
    "error": (
        "raise ValueError('s3cret')",
        "broken:PLUGIN",
        "failed (ValueError in broken:1)",
    ),
    "other name": (
        "class PLUGIN:\n    name = 'other'",
        "broken:PLUGIN",
        "a plugin of another name",
    ),
    "no name": ("PLUGIN = 7", "broken:PLUGIN", "failed (AttributeError)"),
    "no members": (
        "class PLUGIN:\n    name = 'broken'\n    refusals = open = key_name = 1",
        "broken:PLUGIN",
        "the plugin broken has no key_setting, modules, production_refusal",
    ),
}


@pytest.mark.parametrize(("code", "value", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_refused(
    *,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    code: str,
    value: str,
    message: str,
) -> None:
    """Without the words of its error, which may contain a secret."""
    (tmp_path / "broken.py").write_text(code, encoding="utf-8")
    _claim(tmp_path, "broken", "broken", value)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken", raising=False)

    found = _refusal({"KEY_BACKEND": "broken"})

    assert message in found
    assert "s3cret" not in found


class _Renamed:
    name = "renamed"
    concurrency = 1


class _Incomplete:
    name = "example-files"
    concurrency = 1

    def public_key(self, key_id: KeyId) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        # The key ring would not find its keys by that name.
        (_Renamed(), "of another name"),
        # Otherwise the first signature would fail, long after the start.
        (_Incomplete(), "has no resolve, sign_digest"),
    ],
    ids=["another name", "missing members"],
)
def test_a_backend_that_does_not_fit_is_refused(
    example: Path, backend: object, message: str
) -> None:
    plugin = load_plugin("example-files")

    class Opening(type(plugin)):  # type: ignore[misc]
        def open(self, config: BackendConfig) -> object:
            return backend

    with pytest.raises(ConfigurationError, match=message):
        open_plugin(Opening(), _config())


def test_production_refuses_what_the_plugin_forbids(example: Path) -> None:
    """Elsewhere the guard warns."""
    plugin = load_plugin("example-files")
    folder = {"EXAMPLE_FOLDER": str(example)}

    with pytest.raises(ConfigurationError, match="backend-forbidden"):
        check_plugin(plugin, _config(APP_ENV="production", **folder))
    with pytest.raises(ConfigurationError, match="needs EXAMPLE_FOLDER"):
        check_plugin(plugin, _config(APP_ENV="test"))
    forbidden = check_plugin(plugin, _config(APP_ENV="test", **folder))
    assert forbidden is not None


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {
        "APP_ENV": "test",
        "NETWORKS_FILE": str(write_networks(tmp_path / "networks.toml")),
        "MAC_KEY_FILE": str(write_mac_key(tmp_path)),
        "JWT_ALGORITHM": "HS256",
        "JWT_SECRET": "x" * 64,
    }


def _codes(environ: dict[str, str]) -> set[str]:
    with pytest.raises(ConfigurationError) as caught:
        check_configuration(environ)
    return {refusal.code for refusal in caught.value.refusals}


def test_the_guard_checks_the_selected_backend(environ: dict[str, str]) -> None:
    """An emulator only warns outside of production."""
    google = {**environ, "KEY_BACKEND": "google-cloud-kms"}
    configured = {**google, "GOOGLE_CLOUD_KMS_KEY": KEY}
    emulated = {**configured, "GOOGLE_CLOUD_KMS_ENDPOINT": "http://127.0.0.1:1"}
    production = {"APP_ENV": "production"}

    assert _codes(google) == {"kms-not-configured"}
    assert check_configuration(configured) == []
    (warning,) = check_configuration(emulated)
    assert warning.startswith("NOT SAFE FOR PRODUCTION: GOOGLE_CLOUD_KMS_ENDPOINT")
    assert "kms-endpoint-forbidden" in _codes({**emulated, **production})
    others = {"kms-endpoint-forbidden", "kms-not-configured", "backend-misconfigured"}
    assert _codes({**configured, **production}).isdisjoint(others)
    assert _codes({**environ, "KEY_BACKEND": "azure"}) == {"backend-misconfigured"}


def test_a_process_without_a_key_loads_no_backend(environ: dict[str, str]) -> None:
    """Nor does it accept Google's credentials."""
    role = {**environ, "SERVE_ROLE": "refunds", "KEY_BACKEND": "azure"}
    credentials = {"GOOGLE_APPLICATION_CREDENTIALS": "/run/secrets/google.json"}

    assert check_configuration(role) == []
    assert _codes({**role, **credentials}) == {"role-has-credentials"}
