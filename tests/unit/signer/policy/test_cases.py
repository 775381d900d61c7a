"""The adversarial cases, on every path, with the default policies."""

import pytest

from signer.policy.facts import Path
from tests.support.policy import CASES, Case, decide


def test_there_are_enough_cases() -> None:
    """At least 150, each with a verdict on every path, which its own permit names."""
    permits = {Path.REFUND: "+refund", Path.SWEEP: "+sweep", Path.NOOP: "+no-op"}
    signed = {
        (path, rule)
        for case in CASES
        for path, rule in case.rules.items()
        if rule.startswith("+") and path != Path.ACCOUNT
    }
    assert signed == set(permits.items())
    assert len(CASES) >= 150
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.rules.keys() == set(Path) for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_default_policies_decide_as_written(case: Case) -> None:
    """Verdict and rule of each path are those of the table."""
    found = {}
    for path in Path:
        outcome = decide(case, path)
        sign = "+" if outcome.decision.verdict == "allow" else ""
        found[path] = f"{sign}{outcome.decision.rule}"
        assert outcome.is_expected is (found[path] == case.rules[path])

    assert found == case.rules


def test_an_account_does_not_send_from_a_service_wallet() -> None:
    """What the account would sign that uses a nonce; other paths and kinds stay."""
    for case in CASES:
        for path in Path:
            found = decide(case, path, is_service_wallet=True).decision
            uses_nonce = {"transaction", "authorization"} & case.given.keys()
            signed = case.rules[path].startswith("+")
            if path is Path.ACCOUNT and uses_nonce and signed:
                assert found.rules == ("service-wallet",), case.name
            elif path != Path.ACCOUNT or not uses_nonce:
                assert found.rule == case.rules[path].removeprefix("+"), case.name
