"""
The signing API: ``/v1/sign``, and JSON-RPC 2.0 at ``/rpc`` as wallet tools speak it.

``signer.signing`` and ``signer.refunds`` decide what a request does.
"""

from api.extension import Extra


EXTRA = Extra(
    name="signing_api",
    routes={"sign": "api.extras.signing_api.routes:add_signing"},
    openapi="api.extras.signing_api.openapi:OPERATIONS",
)
