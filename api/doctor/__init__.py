"""
``hotwallet doctor``: ordered checks from the settings to a mined transaction.

It imports ``signer`` and gets whatever opens a backend as a parameter.
"""
