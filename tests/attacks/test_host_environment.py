"""The environment of a host: variables, and files that libraries read by themselves."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import boto3  # type: ignore[import-untyped]
import pytest
from botocore.awsrequest import AWSRequest, AWSResponse  # type: ignore[import-untyped]
from botocore.loaders import Loader  # type: ignore[import-untyped]

from api.auth.dev_tokens import provide_signing_key
from backends.aws_kms.backend import KMSBackend
from backends.aws_kms.client import build_client, require_aws_host
from signer.errors import ConfigurationError, KeyNotFoundError


ELSEWHERE = "http://127.0.0.1:9"
RULES = {
    "version": "1.0",
    "parameters": {
        "Region": {"builtIn": "AWS::Region", "type": "string"},
        "UseDualStack": {
            "builtIn": "AWS::UseDualStack",
            "type": "boolean",
            "required": True,
            "default": False,
        },
        "UseFIPS": {
            "builtIn": "AWS::UseFIPS",
            "type": "boolean",
            "required": True,
            "default": False,
        },
        "Endpoint": {"builtIn": "SDK::Endpoint", "type": "string"},
    },
    "rules": [
        {
            "conditions": [],
            "endpoint": {"url": ELSEWHERE, "properties": {}, "headers": {}},
            "type": "endpoint",
        }
    ],
}


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@pytest.fixture
def redirected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant models that lead KMS elsewhere, where botocore looks for them."""
    folder = tmp_path / "models" / "kms" / "2014-11-01"
    folder.mkdir(parents=True)
    (folder / "endpoint-rule-set-1.json").write_text(json.dumps(RULES))
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path / "models"))
    monkeypatch.setattr(Loader, "CUSTOMER_DATA_PATH", str(tmp_path / "models"))


def _host_asked(client: object) -> str:
    """Return the URL that *client* would ask, without a request."""
    urls: list[str] = []

    def answer(request: AWSRequest, **_: object) -> AWSResponse:
        urls.append(request.url)
        return AWSResponse(request.url, 500, {}, None)

    client.meta.events.register("before-send.kms", answer)  # type: ignore[attr-defined]
    with pytest.raises(Exception):  # noqa: B017, PT011  Only the URL matters here.
        client.get_public_key(KeyId="alias/wallet")  # type: ignore[attr-defined]
    return urls[0]


@pytest.mark.usefixtures("redirected")
def test_models_of_the_host_do_not_redirect_kms() -> None:
    """Neither ``AWS_DATA_PATH`` nor ``~/.aws/models`` leads to another KMS."""
    plain = boto3.session.Session(region_name="eu-central-1").client("kms")
    ours = build_client("eu-central-1", None, 1, 500, 1)

    assert _host_asked(plain).startswith(ELSEWHERE)
    assert _host_asked(ours) == "https://kms.eu-central-1.amazonaws.com/"


@pytest.mark.usefixtures("redirected")
def test_a_client_that_leaves_aws_is_refused() -> None:
    """Should a model lead elsewhere all the same, the client is not used."""
    plain = boto3.session.Session(region_name="eu-central-1").client("kms")

    with pytest.raises(ConfigurationError, match="kms-endpoint-forbidden") as caught:
        require_aws_host(plain)

    assert ELSEWHERE not in str(caught.value)


@pytest.mark.parametrize(
    ("region", "variable", "host"),
    [
        ("eu-central-1", None, "kms.eu-central-1.amazonaws.com"),
        ("cn-north-1", None, "kms.cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", "FIPS", "kms-fips.us-gov-west-1.amazonaws.com"),
        ("eu-central-1", "DUALSTACK", "kms.eu-central-1.api.aws"),
    ],
)
def test_hosts_of_aws_are_accepted(
    monkeypatch: pytest.MonkeyPatch, region: str, variable: str | None, host: str
) -> None:
    """Also the FIPS and dual-stack hosts, which AWS's own variables select."""
    if variable is not None:
        monkeypatch.setenv(f"AWS_USE_{variable}_ENDPOINT", "true")

    assert _host_asked(build_client(region, None, 1, 500, 1)) == f"https://{host}/"


def test_invented_regions_cost_no_client() -> None:
    """Thirty ARNs in regions that AWS does not have build no client."""
    built: list[str] = []

    def build(region: str) -> object:
        built.append(region)
        return build_client(region, None, 1, 500, 1)

    backend = KMSBackend(build_client("eu-central-1", None, 1, 500, 1), build)  # type: ignore[arg-type]
    for number in range(30):
        arn = f"arn:aws:kms:eu-nowhere-{number}:111122223333:key/mrk-0123456789abcdef"
        with pytest.raises(KeyNotFoundError, match="region"):
            backend.resolve(arn)

    assert built == []


@pytest.mark.parametrize("mode", ["disable", "require"])
def test_a_connection_to_the_database_that_others_read(
    tmp_path: Path, mode: str
) -> None:
    """Production refuses it before it connects, and before a password is sent."""
    example = Path(__file__).parents[2] / "docker" / "networks.example.toml"
    provide_signing_key(tmp_path / "private.pem", tmp_path / "public.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = "{}:{}".format(*listener.getsockname())
        guard = subprocess.run(
            [Path(sys.executable).with_name("hotwallet"), "guard"],
            cwd=tmp_path,
            env={
                "USE_KMS": "true",
                "KMS_KEY_ID": "arn:aws:kms:eu-central-1:111122223333:alias/refunds",
                "AWS_REGION": "eu-central-1",
                "AUDIT_SIGNING_KEY_FILE": "/nowhere/audit.pem",
                "JWT_PUBLIC_KEY_FILE": str(tmp_path / "public.pem"),
                "NETWORKS_FILE": str(example),
                "DATABASE_URL": f"postgresql://u:secret@{address}/d?sslmode={mode}",
                # libpq's own variable does not help: the URL's parameter wins.
                "PGSSLMODE": "verify-full",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()

    assert guard.returncode == 78
    assert guard.stderr.startswith("refused: database-insecure: ")
    assert "secret" not in guard.stderr
