"""
schemathesis calls every operation of a running service, and finds nothing.

It makes requests from the OpenAPI document, valid and invalid ones, and checks each
answer: no server error, only documented statuses, types, headers and bodies; invalid
requests are refused, valid ones are accepted, and tokens are required.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from eth_utils.address import to_checksum_address
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.schemas import BaseSchema

from api.auth.dev_tokens import mint
from api.http.openapi.document import complete_document
from signer.config.settings import Settings
from tests.api.live_server import Server, service_environ


SCOPES = {
    "merchant": ("refunds:read", "refunds:write"),
    "admin": (
        "keys:rotate",
        "keys:read",
        "tenants:block",
        "signing:stop",
        "approvals:read",
        "approvals:decide",
        "approvals:break-glass",
    ),
    "devops": ("metrics:read",),
}
