"""The requests in docs/how-to/integrate.md, against a running service."""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from api.auth.dev_tokens import mint
from signer.config.settings import Settings
from tests.api.live_server import Server, service_environ


PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "integrate.md"


@pytest.fixture(scope="module")
def environ(
    tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> Iterator[Mapping[str, str]]:
    """The environment of a client: the address of the service, and a token."""
    folder = tmp_path_factory.mktemp("service")
    settings = service_environ(folder, _sqlite_template)
    with Server(settings, "tests.api.fuzzed_app:get_app()") as server:
        token = mint(
            Settings.from_env(settings), subject="gateway-1", roles=["merchant"]
        )
        yield {"HOTWALLET_URL": f"http://127.0.0.1:{server.port}", "TOKEN": token}


def _block(language: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    (block,) = re.findall(
        rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
    )
    return str(block)


def _run(
    environ: Mapping[str, str], program: list[str], source: str = ""
) -> subprocess.CompletedProcess[str]:
    finished = subprocess.run(
        program,
        input=source,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished


@pytest.mark.needs("curl")
def test_curl(environ: Mapping[str, str]) -> None:
    """Each command prints a document; the refund is found by its payment."""
    commands = _block("console").replace("$ curl", "curl")
    script = commands.replace("\ncurl", "; echo\ncurl")
    printed = _run(environ, ["bash", "-eu"], script).stdout
    tokens, preview, created, listed, problem = printed.split("\n", 4)

    assert json.loads(tokens)["tokens"][0]["token"] == "TUSD"
    assert json.loads(preview)["outcome"] == "pay"
    refund = json.loads(created)
    assert [each["id"] for each in json.loads(listed)["refunds"]] == [refund["id"]]
    assert problem.startswith("policy-violation: ")
