"""``hotwallet init`` and ``hotwallet config check``."""

import io
import stat
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from api.auth.dev_tokens import provide_signing_key
from api.cli.configuration_files import env_text, networks_text
from api.cli.env_file import read_env_file
from api.cli.presets import PLACEHOLDER_URL, PRESETS
from backends.google_cloud_kms.options import GoogleCloudKMSOptions
from signer.config.networks import load_networks
from signer.config.settings import Settings
from signer.config.tenants import check_tenants, load_tenants
from tests.api.commands import Run


ROOT = Path(__file__).resolve().parents[3]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        """Claim to be a terminal."""
        return True


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that types lines; hidden ones are read in the same way."""

    def type_lines(*lines: str) -> None:
        stdin = Terminal("".join(f"{line}\n" for line in lines))
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr("getpass.getpass", lambda *_, **__: stdin.readline()[:-1])

    return type_lines


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an environment without settings."""
    for name in (*_variables(), "MERCHANT_WALLET_PRIVATE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _variables() -> list[str]:
    models = (Settings, GoogleCloudKMSOptions)
    fields = [each for model in models for each in model.model_fields.values()]
    return [str(each.alias) for each in fields if each.alias]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_template_is_the_example() -> None:
    """The wheel has a copy of .env.example, so both list every variable."""
    copy = (ROOT / "api/cli/env.example").read_bytes()

    same = copy == (ROOT / ".env.example").read_bytes()
    assert same, "run: cp .env.example api/cli/env.example"


def test_a_configuration_for_a_laptop(hotwallet: Run, folder: Path) -> None:
    """The files are complete, private and valid, but for the URL of a node."""
    finished = hotwallet("init", "--for", "laptop", "--yes")

    assert finished.status == 0, finished.err
    environ = read_env_file(folder / ".env")
    settings = Settings.from_env(environ)
    networks = load_networks(settings.networks_file)
    assert settings.app_env == "development"
    assert sorted(environ) == sorted({*_variables(), "JWT_SECRET"} & {*environ})
    assert list(networks) == ["ethereum-sepolia"]
    assert {_mode(folder / name) for name in (".env", "networks.toml")} == {0o600}
    assert "still to do: networks.ethereum-sepolia.rpc_urls" in finished.out
    assert finished.out.splitlines()[-4:] == [
        "Next:",
        "  hotwallet softhsm init",
        "  hotwallet up",
        "  hotwallet doctor    # in a second terminal, while it runs",
    ]


def test_a_configuration_for_production(hotwallet: Run, folder: Path) -> None:
    """It lists what is missing, each with the code of its refusal."""
    finished = hotwallet(
        "init", "--for", "production", "--yes", "--directory", "new/folder",
        "--network", "base", "--network", "polygon", "--network", "base",
    )  # fmt: skip
    made = folder / "new" / "folder"

    assert finished.status == 0, finished.err
    networks = load_networks(made / "networks.toml")
    assert list(networks) == ["base", "polygon"]
    check_tenants(load_tenants(made / "tenants.toml"), networks)
    environ = read_env_file(made / "hotwallet.env")
    assert environ["APP_ENV"] == "production"
    assert environ["TENANTS_FILE"] == str(made / "tenants.toml")
    for missing in (
        "kms-not-configured",
        "jwt-not-configured",
        "mac-key-invalid",
        "audit",
    ):
        assert f"still to do: {missing}" in finished.out
    assert f"  hotwallet db mac-key --out {made / 'mac.key'}\n" in finished.out


def test_a_complete_production_is_ready(hotwallet: Run, folder: Path) -> None:
    """With its answers, and the commands that it prints, the check passes."""
    hotwallet("init", "--for", "production", "--yes")
    assert hotwallet("db", "mac-key", "--out", "mac.key").status == 0
    assert hotwallet("audit", "key", "--out", "audit.pem").status == 0
    path, networks = folder / "hotwallet.env", folder / "networks.toml"
    path.write_text(
        path.read_text(encoding="utf-8")
        .replace(
            "KMS_KEY_ID=\n",
            "KMS_KEY_ID=arn:aws:kms:eu-central-1:111122223333:key/1234abcd\n",
            1,
        )
        .replace("AWS_REGION=\n", "AWS_REGION=eu-central-1\n", 1)
        .replace("JWT_PUBLIC_KEY_FILE=\n", "JWT_PUBLIC_KEY_FILE=jwt.pem\n", 1)
        .replace(
            "DATABASE_URL=\n",
            "DATABASE_URL=postgresql+psycopg://me@h/d?sslmode=verify-full\n",
            1,
        )
    )
    text = networks.read_text(encoding="utf-8")
    urls = f'["{PLACEHOLDER_URL}"]'
    mine = '["https://1.test/", "https://2.test/", "https://3.test/"]'
    networks.write_text(text.replace(urls, mine))
    provide_signing_key(folder / "private.pem", folder / "jwt.pem")

    finished = hotwallet("config", "check", "hotwallet.env")

    assert finished.status == 0, finished.err
    assert "problem" not in finished.out


@pytest.mark.parametrize("name", [".env", "networks.toml"])
def test_nothing_is_overwritten(hotwallet: Run, folder: Path, name: str) -> None:
    """One file that exists is enough; none is written."""
    (folder / name).write_text("mine", encoding="utf-8")

    finished = hotwallet("init", "--for", "laptop", "--yes")

    assert finished.status == 1
    assert "exists, and nothing was written" in finished.err
    assert [each.name for each in folder.iterdir()] == [name]
    assert (folder / name).read_text(encoding="utf-8") == "mine"


def test_questions(hotwallet: Run, folder: Path, answer: Callable[..., None]) -> None:
    """A terminal is asked for what no option gave; an unknown network again."""
    answer("laptop", "moon", "base-sepolia, polygon-amoy", "https://a.test/key", "")

    finished = hotwallet("init")

    assert finished.status == 0, finished.err
    networks = load_networks(folder / "networks.toml")
    urls = {
        name: [each.get_secret_value() for each in network.rpc_urls]
        for name, network in networks.items()
    }
    assert urls == {
        "base-sepolia": ["https://a.test/key"],
        "polygon-amoy": [PLACEHOLDER_URL],
    }
    assert "unknown: moon" in finished.err
    assert "a.test" not in finished.out + finished.err


def test_questions_about_production(
    hotwallet: Run, folder: Path, answer: Callable[..., None]
) -> None:
    arn = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd"
    answer("", arn, "eu-central-1", "", "")

    finished = hotwallet("init", "--for", "production", "--network", "base")

    assert finished.status == 0, finished.err
    environ = read_env_file(folder / "hotwallet.env")
    assert environ["KMS_KEY_ID"] == arn
    assert environ["AWS_REGION"] == "eu-central-1"
    assert environ["WALLET_ADDRESS"] == ""
    assert "kms-not-configured" not in finished.out


def test_a_malformed_answer_writes_nothing(
    hotwallet: Run, folder: Path, answer: Callable[..., None]
) -> None:
    answer("", "", "", "0x123", "")

    finished = hotwallet("init", "--for", "production", "--network", "base")

    assert finished.status == 78
    assert "WALLET_ADDRESS" in finished.err
    assert not list(folder.iterdir())


def test_without_a_terminal_it_asks_nothing(hotwallet: Run, folder: Path) -> None:
    finished = hotwallet("init")

    assert finished.status == 2
    assert "add --yes" in " ".join(finished.err.split())
    assert not list(folder.iterdir())


def test_a_directory_that_cannot_be_made(hotwallet: Run, folder: Path) -> None:
    (folder / "file").write_text("", encoding="utf-8")

    finished = hotwallet("init", "--yes", "--directory", "file/below")

    assert finished.status == 1
    assert "file/below" in finished.err or "Not a directory" in finished.err


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_is_a_valid_network(tmp_path: Path, name: str) -> None:
    """With the chain's id, checksummed addresses, and their sources as comments."""
    preset = PRESETS[name]
    path = tmp_path / "networks.toml"
    path.write_text(networks_text([preset], {}), encoding="utf-8")

    network = load_networks(path)[name]

    assert network.chain_id == preset.chain_id
    assert network.confirmations == preset.confirmations
    assert {symbol: token.address for symbol, token in network.tokens.items()} == {
        each.symbol: each.address for each in preset.tokens
    }
    for token in preset.tokens:
        assert token.source in path.read_text(encoding="utf-8")
    assert preset.is_testnet is (len(preset.tokens) == 1 and name != "base")


def test_a_name_that_is_no_variable() -> None:
    with pytest.raises(ValueError, match="NO_SUCH is no variable"):
        env_text({"NO_SUCH": "1"})


def test_the_environment_is_checked_without_files(
    hotwallet: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default of APP_ENV is production, and its refusals are listed."""
    monkeypatch.setenv("APP_ENV", "production")

    finished = hotwallet("config", "check")

    assert finished.status == 78
    assert "refused: networks-misconfigured" in finished.err
    assert "refused: kms-not-configured" in finished.err


def test_tables_alone(hotwallet: Run, folder: Path) -> None:
    """Networks and tenants are checked together, and without settings."""
    Path("n.toml").write_bytes((ROOT / "docker/networks.example.toml").read_bytes())
    Path("t.toml").write_bytes((ROOT / "docker/tenants.example.toml").read_bytes())

    both = hotwallet("config", "check", "n.toml", "t.toml", "--json")
    tenants = hotwallet("config", "check", "t.toml")
    Path("n.toml").write_text("[networks.x]\nchain_id = 1\n", encoding="utf-8")
    broken = hotwallet("config", "check", "n.toml")

    assert (both.status, both.json["ok"]) == (1, False)  # Its URL is an example.
    assert (tenants.status, tenants.out) == (0, "ok\n")
    assert broken.status == 78
    assert "networks.x.rpc_urls: Field required" in broken.err


@pytest.mark.parametrize(
    ("text", "status", "problem"),
    [
        ("[", 78, "settings-invalid: x.toml is not TOML"),
        ("[other]\n", 1, "has neither [networks] nor [tenants]"),
    ],
)
def test_other_tables(
    hotwallet: Run, folder: Path, text: str, status: int, problem: str
) -> None:
    Path("x.toml").write_text(text, encoding="utf-8")

    finished = hotwallet("config", "check", "x.toml")

    assert finished.status == status
    assert problem in finished.err


def test_an_environment_file_that_is_no_text(hotwallet: Run, folder: Path) -> None:
    Path("x.env").write_bytes(b"\xff")

    finished = hotwallet("config", "check", "x.env")

    assert finished.status == 1
    assert "x.env cannot be read (UnicodeDecodeError)" in finished.err


def test_a_misspelled_variable(hotwallet: Run, folder: Path) -> None:
    """A warning names the variable that is meant; other programs' are left alone."""
    hotwallet("init", "--for", "laptop", "--network", "base", "--yes")
    with Path(".env").open("a", encoding="utf-8") as file:
        file.write("WEB_TREADS=4\nPGSERVICEFILE=x\nAWS_PROFILE=y\n")

    warnings = hotwallet("config", "check", ".env", "--json").json["warnings"]

    assert [each for each in warnings if "no variable" in each] == [
        ".env: WEB_TREADS is no variable of the service; do you mean WEB_THREADS?"
    ]


@pytest.mark.parametrize(
    ("mode", "problem"), [(None, "`hotwallet audit key`"), (0o640, "chmod 600")]
)
def test_the_audit_key_is_checked(
    hotwallet: Run, folder: Path, mode: int | None, problem: str
) -> None:
    """A missing key, or one that other users may read, is found before a start."""
    hotwallet("init", "--for", "production", "--yes")
    if mode is not None:
        hotwallet("audit", "key", "--out", "audit.pem")
        Path("audit.pem").chmod(mode)

    finished = hotwallet("config", "check", "hotwallet.env")

    assert finished.status == 78
    assert "refused: audit-misconfigured: AUDIT_SIGNING_KEY_FILE" in finished.err
    assert problem in finished.err


def test_toml_of_the_presets_has_no_secret_by_default() -> None:
    """Only the placeholder is in it, until an operator sets the URLs."""
    document = tomllib.loads(networks_text([*PRESETS.values()], {}))

    assert {
        url for each in document["networks"].values() for url in each["rpc_urls"]
    } == {PLACEHOLDER_URL}
