"""
The plugins of our own backends: what the entry points of ``hotwallet`` lead to.

A plugin imports the libraries of its backend when it opens it.
"""
