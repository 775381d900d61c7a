"""A browser without scripts, for the tests of the console."""

import html
import itertools
import re
from collections.abc import Mapping
from urllib.parse import urlencode

from falcon.testing import Result, TestClient

from api.auth.authorization import AccessPolicy, RateLimits
from api.container import Container
from api.extras.console.sessions import SECURE_NAME
from backends.sql import SQLStore
from signer.ports.chain import ChainClient
from tests.api.service import build_container
from tests.api.support import NOW, SettableClock, token
from tests.support.ledgers import ROW_MACS


READ = "console:read"

PATHS = [
    "/console",
    "/console/refunds",
    "/console/approvals",
    "/console/keys",
    "/console/wallets",
    "/console/signatures",
    "/console/policy",
    "/console/trends",
    "/console/audit",
    "/console/webhooks",
    "/console/stops",
]
"""The pages without a parameter."""

_ids = itertools.count(1)


def new_token(**claims: object) -> str:
    """Return a new token of the administrator alice, with other *claims*."""
    known = {"roles": ["admin"], "scope": READ, "sub": "alice"}
    now = claims.pop("now", NOW)
    given = {**known, "jti": f"browser-{next(_ids)}", **claims}
    return token(now, **given)  # type: ignore[arg-type]


def build_console(
    store: SQLStore, clock: SettableClock, node: ChainClient | None = None
) -> Container:
    """Return a container whose changes need two administrators, and are audited."""
    made = build_container(store, clock, client=node)
    made.settings = made.settings.model_copy(update={"require_approvals": True})
    made.row_macs = ROW_MACS
    made.access = AccessPolicy(
        store,
        RateLimits.shared(store, refused=10_000, clock=clock),
        made.audit,
        clock,
        made.tenants,
    )
    return made


class Browser:
    def __init__(self, client: TestClient, host: str = "hotwallet.example") -> None:
        self._client = client
        self._host = host
        self.cookies: dict[str, str] = {}

    def get(self, path: str) -> Result:
        """Open the page at *path*; do not follow redirects."""
        return self._client.simulate_get(path, cookies=self.cookies, host=self._host)

    def submit(self, path: str, fields: Mapping[str, str], **headers: str) -> Result:
        """Send *fields* to *path*, and keep the cookie of the answer."""
        given = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        answer = self._client.simulate_post(
            path,
            body=urlencode(fields),
            headers=given,
            cookies=self.cookies,
            host=self._host,
        )
        for name, cookie in answer.cookies.items():
            self.cookies[name] = cookie.value
        return answer

    def log_in(self, **claims: object) -> Result:
        """Start a session of alice, or with other *claims*."""
        return self.submit("/console/login", {"token": new_token(**claims)})

    def form_token(self) -> str:
        page = self.get("/console/keys").text
        found = re.search(r'name="form" value="([^"]+)"', page)
        assert found is not None
        return html.unescape(found[1])

    @property
    def session(self) -> str:
        return self.cookies[SECURE_NAME]
