"""Several processes get the same request many times at once (G3, R1)."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.crash.conftest import Open
from tests.crash.gateway_process import Load


TENANTS = """\
[tenants.shop]  # With two subjects, acceptance looks for refunds of each.
subjects = ["gateway", "pod-2"]
"""


@pytest.mark.parametrize(
    ("keys", "copies"), [(100, 20), pytest.param(1_000, 50, marks=pytest.mark.soak)]
)
def test_parallel_requests_pay_once(
    open_laboratory: Open,
    empty_postgresql_url: str,
    tmp_path: Path,
    keys: int,
    copies: int,
) -> None:
    """One payment per key; all responses name the same refund."""
    tenants = tmp_path / "tenants.toml"
    tenants.write_text(TENANTS)
    lab = open_laboratory(empty_postgresql_url, settings={"TENANTS_FILE": str(tenants)})
    gateway = lab.start_gateway(
        Load("duplicates", concurrency=4, count=keys, copies=copies)
    )
    lab.wait(lambda: not gateway.is_alive, keys * copies * 0.05)
    lab.settle(gateway)

    responses = [e for e in lab.journal() if e.get("http") in {200, 201}]
    ids, created = defaultdict(set), Counter[str]()
    for response in responses:
        ids[response["key"]].add(response["id"])
        created[response["key"]] += response["http"] == 201
    assert keys * copies == len(responses)
    assert {1} == {len(given) for given in ids.values()}
    assert max(created.values()) == 1
    assert keys == len(lab.evidence().transfers)
    lab.assert_no_violations()
