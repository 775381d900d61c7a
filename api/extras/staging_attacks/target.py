"""The deployment that is attacked, of which one knows two tenants' tokens."""

import socket
import ssl
from collections.abc import Collection

from api.cli.staging import MAX_ANSWER, Deployment
from signer.errors import InvalidInputError


_RAW_SECONDS = 5.0


class Target(Deployment):
    """A deployment at *url*, of which one knows two tenants' tokens."""

    def __init__(self, url: str, token: str, other_token: str, recipient: str) -> None:
        super().__init__(url, token, recipient)
        self.other_token = other_token

    def require_usable(self, chain_ids: Collection[int]) -> None:
        """
        Require that the attacks would mean something, and move no real money.

        Raises:
            InvalidInputError: As ``require_test_chains`` for both tokens, or both are
                the same.
        """
        self.require_test_chains(chain_ids, "--token-file", self.token)
        self.require_test_chains(chain_ids, "--other-token-file", self.other_token)
        if self.token == self.other_token:
            problem = "is the same token: give that of another tenant"
            raise InvalidInputError(problem, field="--other-token-file")

    def connect(self) -> socket.socket:
        """Return a connection for bytes that no client library would send."""
        connection = socket.create_connection((self.host, self.port), _RAW_SECONDS)
        if not self.is_secure:
            return connection
        context = ssl.create_default_context()
        return context.wrap_socket(connection, server_hostname=self.host)

    def send_raw(self, data: bytes) -> bytes:
        """Send *data* on a connection of its own; return all that is answered."""
        answered = b""
        with self.connect() as connection:
            connection.sendall(data)
            try:
                while len(answered) < MAX_ANSWER and (more := connection.recv(65536)):
                    answered += more
            except OSError:  # Closed, or nothing more comes.
                pass
        return answered
