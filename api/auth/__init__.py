"""
Who is calling and what the caller may do: JWTs, roles, scopes and rate limits.

It imports ``signer``, and nothing of ``api.http``.
"""
