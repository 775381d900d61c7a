"""
The OpenAPI document of the HTTP API, and the pages that are made from it.

The document is made of the declarations of routes, actions and documents.  Every answer
of the API's tests is compared with it.
"""
