"""
The OpenAPI document of the HTTP API, and the pages that are made from it.

The document is written by hand, beside the routes that it describes.  It imports the
constants and enumerations of the code.  Tests compare it with the routes, and every
answer of the API's tests with it.
"""
