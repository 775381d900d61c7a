"""
The ports: Protocols that backends implement, and the values that they exchange.

It may import ``model`` and the packages below it.  mypy checks the backends where
``api/backend_factories.py`` returns them, and ``tests/contract`` tests them at run
time.
"""
