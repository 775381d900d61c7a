"""``hotwallet init`` and ``hotwallet config check``."""

import errno
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from api.auth.dev_tokens import provide_signing_key
from api.cli.configuration_files import (
    PLACEHOLDER_URL,
    PRESETS,
    PROCESSES,
    env_text,
    networks_text,
)
from api.cli.options import read_env_file
from api.extras.audit_shipping.settings import ShippingSettings
from api.extras.open_telemetry.settings import TraceSettings
from api.extras.screening.settings import ScreeningSettings
from api.extras.top_ups.settings import TreasurySettings
from backends.google_cloud_kms.options import GoogleCloudKMSOptions
from signer.config.networks import Network, load_networks
from signer.config.settings import Settings
from signer.config.tenants import check_tenants, load_tenants
from tests.api.commands import Finished, Run, Terminal


ROOT = Path(__file__).resolve().parents[3]


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
    models = (
        *(Settings, GoogleCloudKMSOptions),
        *(ScreeningSettings, ShippingSettings, TraceSettings, TreasurySettings),
    )
    fields = [each for model in models for each in model.model_fields.values()]
    return [each.alias for each in fields if each.alias and each.alias.isupper()]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


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


ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd"
SETTINGS = {
    "KMS_KEY_ID": ARN,
    "WALLET_ADDRESS": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    "DATABASE_URL": "postgresql://db.shop.test/hotwallet",
    "JWT_JWKS_URL": "https://login.shop.test/jwks.json",
    "JWT_ISSUER": "https://login.shop.test/",
    "JWT_AUDIENCE": "refunds",
    "AUDIT_ORIGIN": "production-europe",
}
URL = f'["{PLACEHOLDER_URL}"]'
URLS = '["https://1.test/", "https://2.test/", "https://3.test/"]'


def _production(hotwallet: Run, **changes: str) -> Finished:
    settings = {**SETTINGS, **changes}
    flags = [f"--set={name}={value}" for name, value in settings.items() if value]
    return hotwallet("init", "--for", "production", "--yes", *flags)


def test_a_configuration_for_production(hotwallet: Run, folder: Path) -> None:
    """It lists what is missing, with the code of each refusal, and the files."""
    finished = hotwallet(
        "init", "--for", "production", "--yes", "--directory", "new/folder",
        "--network", "base", "--network", "polygon", "--network", "base",
    )  # fmt: skip
    made = folder / "new" / "folder"

    assert finished.status == 0, finished.err
    networks = load_networks(made / "networks.toml")
    assert list(networks) == ["base", "polygon"]
    check_tenants(load_tenants(made / "tenants.toml"), networks)
    assert {path.name for path in made.iterdir()} == {
        *(f"{each}.env" for each in (*PROCESSES, "owner")),
        *("networks.toml", "tenants.toml", "mac.key", "audit.pem"),
        "audit.pem.pub.pem",
    }
    assert {_mode(each) for each in made.iterdir() if ".pub" not in each.name} == {
        0o600
    }
    for missing in (
        "set KMS_KEY_ID to the key's ARN (worker.env, admin.env, sign.env)",
        "DATABASE_URL has an example: set the server and the database (refunds.env",
        "WALLET_ADDRESS is not set",
        "JWT_ISSUER is not set: set it to `iss` of the tokens (refunds.env, admin.env",
        "JWT_AUDIENCE is not set",
        "AUDIT_ORIGIN is not set: name this environment in the audit log (worker.env",
    ):
        assert missing in finished.out
    assert all(str(each) in finished.out for each in made.iterdir())
    assert "still to do: jwt-not-configured" in finished.out
    check = f"  cd {made} && hotwallet config check --process worker\n"
    assert check in finished.out


def test_each_process_has_a_file_of_its_own(hotwallet: Run, folder: Path) -> None:
    """With its role, password and listen address, and only what it needs."""
    assert _production(hotwallet).status == 0
    files = {each: read_env_file(folder / f"{each}.env") for each in PROCESSES}
    environs = [
        {name: value for name, value in each.items() if name in _variables()}
        for each in files.values()
    ]
    defaults = Settings.from_env({}).model_dump(by_alias=True)

    for process, environ in files.items():
        role = f"postgresql://hotwallet_{process}@db.shop.test/hotwallet"
        assert environ["DATABASE_URL"].startswith(f"{role}?sslmode=verify-full&")
        assert environ.get("SERVE_ROLE", "worker") == process
    for environ in environs:
        given = {name for name, value in environ.items() if value}
        for name in given - {"AUDIT_SIGNING_KEY_FILE", "BIND"}:
            assert environ[name] != str(defaults[name])
        assert len(environ) < 18
    assert len({each["PGPASSWORD"] for each in files.values()}) == len(PROCESSES)
    assert len({each.get("BIND") for each in files.values()}) == len(PROCESSES)
    assert {name for name, each in files.items() if "WALLET_ADDRESS" in each} == {
        *PROCESSES
    } - {"refunds"}
    assert files["worker"]["AWS_REGION"] == "eu-central-1"
    assert "KMS_KEY_ID" not in files["refunds"]
    assert "JWT_JWKS_URL" not in files["worker"]


def test_a_shell_reads_the_same_as_systemd_and_compose(
    hotwallet: Run, folder: Path
) -> None:
    """The URL of the database has characters that a shell would interpret."""
    _production(hotwallet)
    read = "set -a; . ./worker.env; printenv DATABASE_URL"
    shell = subprocess.run(
        ["sh", "-euc", read], capture_output=True, text=True, check=True
    )

    assert shell.stdout.strip() == read_env_file(folder / "worker.env")["DATABASE_URL"]


@pytest.mark.parametrize("process", PROCESSES)
def test_a_complete_production_is_ready(
    hotwallet: Run, folder: Path, process: str
) -> None:
    """With the URLs of nodes, the check of each process passes."""
    provide_signing_key(folder / "private.pem", folder / "jwt.pem")
    _production(hotwallet, JWT_JWKS_URL="")
    networks, path = folder / "networks.toml", folder / f"{process}.env"
    networks.write_text(networks.read_text().replace(URL, URLS), encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        file.write("" if process == "worker" else "JWT_PUBLIC_KEY_FILE=jwt.pem\n")

    finished = hotwallet("config", "check", "--process", process)

    assert finished.status == 0, finished.err
    assert finished.out == "ok\n"


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("url", ["", "sqlite:////var/lib/hotwallet/hotwallet.db"])
def test_a_process_beside_others_needs_postgresql(
    hotwallet: Run, folder: Path, process: str, url: str
) -> None:
    """Unset, each process would have a file of its own; the guard has the same rule."""
    _production(hotwallet)
    with (folder / f"{process}.env").open("a", encoding="utf-8") as file:
        file.write(f"DATABASE_URL={url}\n")

    finished = hotwallet("config", "check", "--process", process)

    assert finished.status == 78
    assert "refused: sqlite-multi-node: " in finished.err


def test_the_file_of_a_process_is_checked_alone(
    hotwallet: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the shell's variables nor another process's file complete it."""
    _production(hotwallet, KMS_KEY_ID="")
    monkeypatch.setenv("KMS_KEY_ID", ARN)
    monkeypatch.setenv("AUDIT_SIGNING_KEY_FILE", "audit.pem")

    worker = hotwallet("config", "check", "--process", "worker", "worker.env")
    swapped = hotwallet("config", "check", "--process", "refunds", "admin.env")

    assert (worker.status, swapped.status) == (78, 78)
    assert "refused: kms-not-configured" in worker.err
    assert "refused: role-has-credentials" in swapped.err


def test_the_file_of_another_process(hotwallet: Run, folder: Path) -> None:
    """The administrators' file would otherwise do for a worker."""
    _production(hotwallet)
    for process in PROCESSES:
        for file in (*PROCESSES, "owner"):
            finished = hotwallet("config", "check", "--process", process, f"{file}.env")
            role = f"settings-invalid: DATABASE_URL has the role hotwallet_{file}:"
            serve_role = f"settings-invalid: SERVE_ROLE is {file}: another process's"
            is_foreign = file != process

            assert (role in finished.err) == is_foreign
            assert (serve_role in finished.err) == (
                is_foreign and file in {"refunds", "admin", "sign"}
            )
            assert finished.status == 78 or not is_foreign


def test_two_processes_with_one_address(hotwallet: Run, folder: Path) -> None:
    """They may run on two hosts, so that it is a warning."""
    _production(hotwallet, JWT_JWKS_URL="")
    provide_signing_key(folder / "private.pem", folder / "jwt.pem")
    with (folder / "admin.env").open("a", encoding="utf-8") as file:
        file.write("BIND=127.0.0.1:8080\nJWT_PUBLIC_KEY_FILE=jwt.pem\n")

    beside = hotwallet("config", "check", "--process", "admin")
    alone = hotwallet("config", "check", "--process", "admin", "admin.env")

    warning = "warning: BIND is that of refunds.env too: on one host, only one starts"
    assert warning in beside.out, beside.err
    assert "BIND" not in alone.out


def test_a_misspelled_name_is_named_beside_what_is_missing(
    hotwallet: Run, folder: Path
) -> None:
    _production(hotwallet)
    path = folder / "worker.env"
    text = path.read_text(encoding="utf-8").replace("MAC_KEY_FILE=", "MAC_KEYFILE=")
    path.write_text(text, encoding="utf-8")

    finished = hotwallet("config", "check", "--process", "worker")

    assert finished.status == 78
    assert "refused: mac-key-missing: set MAC_KEY_FILE" in finished.err
    assert "MAC_KEYFILE is no variable of the service; do you mean" in finished.err


@pytest.mark.parametrize(
    ("flag", "problem"),
    [
        ("PGPASSWORD=x", "PGPASSWORD is none of"),
        ("DATABASE_URL=postgresql://me:secret@db.test/d", "without user and password"),
        ("DATABASE_URL=sqlite:///x.db", "must be postgresql://HOST/DATABASE"),
        ("DATABASE_URL=postgresql://[/secret", "must be postgresql://HOST/DATABASE"),
        ("DATABASE_URL=postgresql://db.test/d?sslmode=prefer", "sslmode=verify-full"),
        ("WALLET_ADDRESS=0x123", "WALLET_ADDRESS: must be an address"),
        (f"WALLET_ADDRESS={SETTINGS['WALLET_ADDRESS'][:-1]}7", "EIP-55 checksum"),
        ("KMS_KEY_ID=arn:aws:kms:eu-central-1:123:key/secret", "is not arn:aws:kms:"),
        ("JWT_JWKS_URL=http://login.test/secret", "JWT_JWKS_URL must be https"),
        ("AUDIT_ORIGIN=my shop", "AUDIT_ORIGIN: must be up to 100 letters, digits"),
    ],
)
def test_a_setting_that_init_refuses(
    hotwallet: Run, folder: Path, flag: str, problem: str
) -> None:
    finished = hotwallet("init", "--for", "production", "--yes", "--set", flag)

    assert finished.status != 0
    assert problem in " ".join(finished.err.split())
    assert "secret" not in finished.err
    assert not list(folder.iterdir())


def test_every_wrong_setting_is_named(hotwallet: Run, folder: Path) -> None:
    wrong = dict.fromkeys(("AUDIT_ORIGIN", "DATABASE_URL", "WALLET_ADDRESS"), "no no")

    finished = _production(hotwallet, **wrong)

    assert finished.status == 78
    assert all(name in finished.err for name in wrong)
    assert not list(folder.iterdir())


def test_a_disk_that_is_full_leaves_no_file(
    hotwallet: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last file cannot be written: those before it are removed."""

    def fail(_path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("api.cli.init.create_key", fail)

    finished = _production(hotwallet)

    assert finished.status == 1
    assert "No space left on device" in finished.err
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("of", "name"),
    [
        ("laptop", ".env"),
        ("laptop", "networks.toml"),
        ("production", "audit.pem.pub.pem"),  # It is written last.
    ],
)
def test_nothing_is_overwritten(
    hotwallet: Run, folder: Path, of: str, name: str
) -> None:
    """One file that exists is enough; none is written."""
    (folder / name).write_text("mine", encoding="utf-8")

    finished = hotwallet("init", "--for", of, "--yes")

    assert finished.status == 1
    assert f"{name} exists, and nothing was written" in finished.err
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
    """What an option gave is not asked."""
    answer("", ARN, *[""] * 5, "https://alerts.test/secret")

    finished = hotwallet(
        "init", "--for", "production", "--network", "base",
        "--set", "AUDIT_ORIGIN=production-europe",
    )  # fmt: skip

    assert finished.status == 0, finished.err
    environ = read_env_file(folder / "worker.env")
    assert environ["KMS_KEY_ID"] == ARN
    assert environ["AWS_REGION"] == "eu-central-1"
    assert environ["WALLET_ADDRESS"] == ""
    assert environ["ALERT_WEBHOOK_URL"] == "https://alerts.test/secret"
    assert "alerts.test" not in finished.out + finished.err
    assert "Name of this environment" not in finished.err
    assert "DATABASE_URL has an example" in finished.out
    assert "kms-not-configured" not in finished.out


def test_a_wrong_answer_is_asked_again(
    hotwallet: Run, folder: Path, answer: Callable[..., None]
) -> None:
    """The terminal shows no answer that may be a secret; the end changes nothing."""
    urls = ("http://secret.test/", "https://[secret", "https:///secret", "https://a.b/")
    answer(*urls, "key/1", ARN, "0x123")  # Then Ctrl-D.

    finished = hotwallet("init", "--for", "production", "--network", "base")

    refused = [line for line in finished.err.splitlines() if "not accepted: " in line]
    assert finished.status == 130
    assert sum("must be URLs: https, and a host" in each for each in refused) == 3
    assert any("KMS_KEY_ID is not arn:aws:kms:" in each for each in refused)
    assert "not accepted: WALLET_ADDRESS: must be an address" in refused[-1]
    assert finished.err.endswith("\naborted\n")
    assert "secret" not in finished.err
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("options", "status", "problem"),
    [
        ([], 2, "add --yes"),  # Without a terminal it asks nothing.
        (["--yes", "--set", "JWT_ISSUER=x"], 2, "--set"),
        (["--yes", "--directory", "file/below"], 1, "Not a directory"),
    ],
)
def test_what_init_cannot_do(
    hotwallet: Run, folder: Path, options: list[str], status: int, problem: str
) -> None:
    (folder / "file").write_text("", encoding="utf-8")

    finished = hotwallet("init", *options)

    assert finished.status == status
    assert problem in " ".join(finished.err.split())
    assert [each.name for each in folder.iterdir()] == ["file"]


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_is_a_valid_network(tmp_path: Path, name: str) -> None:
    """With the chain's id, checksummed addresses, and their sources as comments."""
    preset = PRESETS[name]
    path = tmp_path / "networks.toml"
    path.write_text(networks_text({name: preset}, {}), encoding="utf-8")

    network = load_networks(path)[name]

    own = preset.keys() & Network.model_fields.keys() - {"tokens"}
    assert network.model_dump(include=own) == {each: preset[each] for each in own}
    assert {symbol: token.address for symbol, token in network.tokens.items()} == {
        symbol: token["address"] for symbol, token in preset["tokens"].items()
    }
    for token in preset["tokens"].values():
        assert token["source"] in path.read_text(encoding="utf-8")


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
    ("name", "content", "status", "problem"),
    [
        ("x.toml", b"[", 78, "settings-invalid: x.toml is not TOML"),
        ("x.toml", b"[other]\n", 1, "has neither [networks] nor [tenants]"),
        ("x.env", b"\xff", 1, "x.env cannot be read (UnicodeDecodeError)"),
    ],
)
def test_other_files(
    *,
    hotwallet: Run,
    folder: Path,
    name: str,
    content: bytes,
    status: int,
    problem: str,
) -> None:
    Path(name).write_bytes(content)

    finished = hotwallet("config", "check", name)

    assert finished.status == status
    assert problem in finished.err


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
    _production(hotwallet)
    if mode is None:
        Path("audit.pem").unlink()
    else:
        Path("audit.pem").chmod(mode)

    finished = hotwallet("config", "check", "--process", "worker")

    assert finished.status == 78
    assert "refused: audit-misconfigured: AUDIT_SIGNING_KEY_FILE" in finished.err
    assert problem in finished.err


def test_toml_of_the_presets_has_no_secret_by_default() -> None:
    """Only the placeholder is in it, until an operator sets the URLs."""
    document = tomllib.loads(networks_text(PRESETS, {}))

    assert {
        url for each in document["networks"].values() for url in each["rpc_urls"]
    } == {PLACEHOLDER_URL}
