"""The rules that guides show can be used: each is valid against the schema."""

import re
from pathlib import Path
from textwrap import dedent

import pytest

from signer.errors import ConfigurationError
from tests.support.policy_reload import compiled


ROOT = Path(__file__).resolve().parents[3]

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

RULES = {
    f"{path.stem} {number}": dedent(block)
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if path.parent.name != "adr"
    for number, (language, block) in enumerate(
        _FENCE.findall(path.read_text(encoding="utf-8")), start=1
    )
    if language in {"cedar", ""} and "@id(" in block
}


@pytest.mark.parametrize("name", RULES)
def test_the_rules_of_a_guide_are_valid(name: str) -> None:
    """A fact or an annotation that was renamed would be refused."""
    assert compiled({"own.cedar": RULES[name]}).is_extended


def test_rules_are_found_and_a_wrong_one_is_refused() -> None:
    pages = {name.split()[0] for name in RULES}

    assert {"policy", "approvals", "several-wallets", "json-rpc"} <= pages
    wrong = RULES[next(iter(RULES))].replace("context.", "context.no_", 1)
    with pytest.raises(ConfigurationError, match="policy-invalid"):
        compiled({"own.cedar": wrong})
