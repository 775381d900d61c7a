"""A screening service, whose answers a test sets."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.refunds import CUSTOMER


Reply = tuple[int, dict[str, str], bytes]


def screened(allowed: object, address: object = CUSTOMER.lower()) -> Reply:
    """Return the answer about *address*."""
    return 200, {}, json.dumps({"address": address, "allowed": allowed}).encode()


class Service:
    """A screening service that sends *reply*, and keeps what it was asked."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.asked: list[tuple[dict[str, str], bytes]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                service.asked.append((headers, body))
                service.may_answer.wait(30)
                status, extra, answer = service.reply
                self.send_response(status)
                for name, value in extra.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        """Its URL, with a secret."""
        return f"http://127.0.0.1:{self.server.server_port}/screen?key=CANARY"


@contextmanager
def screening_service(reply: Reply) -> Iterator[Service]:
    """Run a service that sends *reply*."""
    service = Service(reply)
    thread = threading.Thread(target=service.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield service
    finally:
        service.may_answer.set()
        service.server.shutdown()
        service.server.server_close()
        thread.join()
