"""An operator, who looks at metrics, console and doctor of a running stack."""

import json
import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookiejar import CookieJar
from typing import Any
from urllib.parse import urlencode

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from api.auth.dev_tokens import mint
from api.auth.jwt_verifier import Role
from api.metrics import metric_names
from dev.stack import Stack
from signer.config.settings import Settings
from tests.support.forked_processes import run_command


_ALL = metric_names.ALL
SPECS = {name: spec for spec in _ALL for name in spec.sample_names}
"""The metrics, by the names of their samples."""

_NOTICE = re.compile(r'<li class="notice (bad|warn|info)">(.*?)</li>', re.DOTALL)
_NAMED = re.compile(r'<code>([a-z-]+)</code>, <a href="([^"]+)">runbook<')


def values_of(metrics: Mapping[str, Metric], name: str, **labels: str) -> list[float]:
    """Return the samples of *metrics* that have *labels*."""
    return [
        sample.value
        for sample in metrics[SPECS[name].family_name].samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


def _token(stack: Stack, role: Role, *scopes: str) -> str:
    settings = Settings.from_env(stack.environ)
    return mint(settings, subject="alice", roles=[role], scopes=scopes)


@dataclass
class Operator:
    """Sees what an operator sees, with tokens of the stack's issuer."""

    stack: Stack
    token: str
    _cookies: CookieJar = field(default_factory=CookieJar)

    @classmethod
    def of(cls, stack: Stack) -> "Operator":
        """Return an operator with the role ``devops``."""
        return cls(stack, _token(stack, "devops"))

    def metrics(self) -> Mapping[str, Metric]:
        """Return the families of ``/metrics``, by name."""
        headers = {"Authorization": f"Bearer {self.token}"}
        text = self._open("/metrics", headers=headers)
        return {each.name: each for each in text_string_to_metric_families(text)}

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples that have *labels*."""
        return sum(self.values(name, **labels))

    def values(self, name: str, **labels: str) -> list[float]:
        """Return the samples that have *labels*."""
        return values_of(self.metrics(), name, **labels)

    def doctor(self) -> dict[str, Any]:
        """Return the results of ``hotwallet doctor`` by name."""
        done = run_command(["doctor", "--json"], self.stack.environ)
        return {each["name"]: each for each in json.loads(done.stdout)["rungs"]}

    def log_in(self) -> None:
        """Start a session of the console."""
        token = _token(self.stack, "admin", "console:read")
        self._open("/console/login", urlencode({"token": token}).encode())

    def notices(self) -> Mapping[str, str]:
        """Return runbook links by name, of what the console says to act on."""
        return {
            name: href
            for urgency, notice in _NOTICE.findall(self._open("/console"))
            for name, href in _NAMED.findall(notice)
            if urgency != "info"
        }

    def _open(
        self,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPCookieProcessor(self._cookies),
        )
        asked = urllib.request.Request(
            f"{self.stack.url}{path}", body, dict(headers or {})
        )
        with opener.open(asked, timeout=10) as response:
            text: str = response.read().decode()
        return text
