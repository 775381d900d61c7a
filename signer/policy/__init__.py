"""
One policy in front of everything that is signed: rules in Cedar over decoded bytes.

It is pure: files are read by ``signer/config``, and the paths that sign pass what they
know.  It may import the configuration, the model and the decoders of the chain.
"""
