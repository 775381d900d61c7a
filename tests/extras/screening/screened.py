"""A screening service that sends the answer that a test sets."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager

from tests.fixtures.plain_server import Reply, Server, reply_server
from tests.support.refunds import CUSTOMER


def screened(allowed: object, address: object = CUSTOMER.lower()) -> Reply:
    return 200, {}, json.dumps({"address": address, "allowed": allowed}).encode()


def screening_service(
    reply: Reply | Callable[[bytes], Reply],
) -> AbstractContextManager[Server]:
    """Run a service that sends *reply*; its URL has a secret."""
    return reply_server(reply, "/screen?key=CANARY")
