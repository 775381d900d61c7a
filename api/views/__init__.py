"""
JSON documents and text made from the core's values, for HTTP and for the CLI.

It imports ``signer`` only.
"""
