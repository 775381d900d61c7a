"""Checks an audit log as a trace of the nonce lifecycle, by the rules of the model."""
