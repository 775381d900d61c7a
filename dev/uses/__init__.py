"""
What a program needs that uses a part of hotwallet: packages, megabytes, modules.

``python -m dev.uses`` builds the wheel, and makes a fresh environment for each use.  In
it a program signs, beside folders that are named like our packages in a checkout.
"""
