"""
What each attacker tries with the one thing that the attacker has stolen.

One file per attacker.  The table in ``docs/explanation/threat-model.md`` names each
attempt, and what it gains.
"""
