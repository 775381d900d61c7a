"""*Production in 30 minutes*, as its reader goes through it."""

import re
import subprocess
import sys

import pytest

from api.cli.configuration_files import ASKED
from dev.anvil import ROOT
from dev.programs import NAMESPACES


PAGE = ROOT / "docs" / "how-to" / "production.md"
_NAMESPACES = ("--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
_IN_FILES = {"ALERT_WEBHOOK_URL", "rpc_urls", "max_amount", "daily_limit", "subjects"}


@pytest.mark.needs(NAMESPACES, "curl", "jq")
def test_every_command_of_the_page_works(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """From `init` to a confirmed refund, in a cloud with TLS, roles and a proxy."""
    folder = tmp_path_factory.mktemp("cloud")  # The path of a socket must be short.
    command = ["unshare", "--map-root-user", *_NAMESPACES, sys.executable, "-m"]
    finished = subprocess.run(
        [*command, "tests.e2e.emulated_cloud", PAGE, folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )

    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == ""


def test_an_operator_decides_at_most_fifteen_settings() -> None:
    """The page counts them; `init` asks for those that are variables."""
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)`: ", text, re.MULTILINE)

    assert [int(number) for number, _ in rows] == [*range(1, len(rows) + 1)]
    assert len(rows) <= 15
    assert {name for _, name in rows} == {*ASKED} | _IN_FILES
    assert "These twelve settings" in text
    assert len(rows) == 12
