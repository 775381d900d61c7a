"""The signing API: ``/v1/sign``, and JSON-RPC 2.0 at ``/rpc`` for wallet tools."""

from api.extension import Extra


EXTRA = Extra(
    name="signing_api",
    routes={"sign": "api.extras.signing_api.routes:add_signing"},
    openapi="api.extras.signing_api.openapi:OPERATIONS",
)
