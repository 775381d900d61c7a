"""Links from problems to what to do about them."""

from collections.abc import Mapping

from api.views.codes import load_codes
from signer.alerts import Alert, find_runbook
from signer.errors import NotFoundError


PREFIX = "/console/runbooks"


def runbook_links(page: str | None) -> Mapping[str, str]:
    """
    Return the link of each alert: to its section of *page*, the ``RUNBOOK_URL``.

    Without one, the console has a short page for each.
    """
    if page is None:
        return {alert: f"{PREFIX}/{alert}" for alert in Alert}
    return {alert: find_runbook(alert, page) for alert in Alert}


def read_runbook(name: str) -> Mapping[str, str]:
    """Return title, meaning and cure of an alert; NotFoundError if there is none."""
    for entry in load_codes():
        if entry["kind"] == "alert" and entry["code"] == name:
            return {**entry, "source": find_runbook(name)}
    raise NotFoundError("there is no such runbook")
