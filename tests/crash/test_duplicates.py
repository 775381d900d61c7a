"""The same request arrives many times at once, at several processes (G3, R1)."""

from collections import Counter, defaultdict

import pytest

from tests.crash.conftest import Open
from tests.crash.laboratory import Laboratory


def _ask(lab: Laboratory, keys: int, copies: int) -> None:
    driver = lab.drive("twins", count=keys, concurrency=4, copies=copies)
    lab.wait(lambda: not driver.is_alive, keys * copies * 0.05)
    lab.settle(driver)

    answers = [e for e in lab.journal() if e.get("http") in {200, 201}]
    ids, created = defaultdict(set), Counter[str]()
    for answer in answers:
        ids[answer["key"]].add(answer["id"])
        created[answer["key"]] += answer["http"] == 201
    assert keys * copies == len(answers)
    assert {1} == {len(given) for given in ids.values()}
    assert max(created.values()) == 1
    assert keys == len(lab.evidence().transfers)
    assert lab.violations() == [], lab.explain("see the list")


def test_twenty_at_once_pay_once(
    open_laboratory: Open, empty_postgresql_url: str
) -> None:
    """A hundred keys, twenty parallel requests each, make a hundred payments."""
    _ask(open_laboratory(empty_postgresql_url), 100, 20)


@pytest.mark.soak
def test_fifty_at_once_pay_once(
    open_laboratory: Open, empty_postgresql_url: str
) -> None:
    """A thousand keys, fifty parallel requests each, make a thousand payments."""
    _ask(open_laboratory(empty_postgresql_url), 1_000, 50)
