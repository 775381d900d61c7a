"""An HTTP server for tests of clients: it sends the answer that a test sets."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


Reply = tuple[int, dict[str, str], bytes]

Asked = tuple[str, str, dict[str, str], bytes]
"""Method, path, headers (their names in lower case) and body of a request."""


class Server:
    """A server that sends *reply*, and keeps what it was asked."""

    def __init__(self, reply: Reply, path: str = "") -> None:
        """Prepare to serve; *path* is a part of ``url``."""
        self.reply = reply
        self._path = path
        self.asked: list[Asked] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                service.asked.append((self.command, self.path, headers, body))
                service.may_answer.wait(30)
                status, extra, answer = service.reply
                self.send_response(status)
                for name, value in extra.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_GET  # noqa: N815  http.server chooses the name.

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.server.server_port}{self._path}"


@contextmanager
def reply_server(reply: Reply, path: str = "") -> Iterator[Server]:
    """Run a server that sends *reply*; *path* is a part of its URL."""
    service = Server(reply, path)
    thread = threading.Thread(target=service.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield service
    finally:
        service.may_answer.set()
        service.server.shutdown()
        service.server.server_close()
        thread.join()
