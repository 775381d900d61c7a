"""What the start refuses, and what the doctor says about the shipped log."""

from datetime import timedelta

import pytest

from api.bootstrap import build_container
from api.extras.audit_shipping import check_place, worker_loops
from api.extras.audit_shipping.shipper import check_shipping
from signer.alerts import Alert
from signer.errors import ConfigurationError
from tests.extras.audit_shipping.shipping import Shipping


REFUSED = (
    ({"AUDIT_SHIP_TO": "https://example.com"}, "AUDIT_SHIP_TO must be s3://"),
    ({"AUDIT_SHIP_MAX_LAG": "30"}, "AUDIT_SHIP_MAX_LAG needs AUDIT_SHIP_TO"),
    (
        {"AUDIT_SHIP_TO": "file:///place", "APP_ENV": "production"},
        "AUDIT_SHIP_TO needs AUDIT_SIGNING_KEY_FILE",
    ),
)


@pytest.mark.parametrize(("environ", "problem"), REFUSED)
def test_unusable_settings_are_refused(environ: dict[str, str], problem: str) -> None:
    container = build_container({"APP_ENV": "test", **environ})

    with pytest.raises(ConfigurationError, match=problem):
        check_place(container, paying=True)


@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_the_doctor_says_what_is_not_shipped(shipping: Shipping) -> None:
    """Nothing, then everything, then too little; and that it ended on purpose."""
    url = shipping.place.url
    on = build_container({"AUDIT_SHIP_TO": url, "APP_ENV": "test"})
    off = build_container({"APP_ENV": "production"})
    for container in (on, off):
        container.store, container.ledger_clock = shipping.store, shipping.clock
    never = check_shipping(off), check_shipping(on)
    shipping.write(2)
    shipping.process().ship()
    good = check_shipping(on), check_shipping(off)
    shipping.clock.now += timedelta(minutes=2)
    late = check_shipping(on)
    ended = [*worker_loops(off)], check_shipping(off)

    assert never[0].cure is not None
    assert never[1].code == late.code == Alert.SHIPPING_LATE
    assert [each.cure for each in good] == [None, None]
    assert good[1].detail == f"2 records are at {url}"
    assert (ended[0], ended[1].detail) == ([], never[0].detail)
