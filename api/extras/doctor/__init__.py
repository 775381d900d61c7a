"""
``hotwallet doctor`` checks everything that a refund needs, and names each cure.

``hotwallet network probe`` writes the entry of a network from what a node shows.
"""

from api.extension import Extra


EXTRA = Extra(
    name="doctor",
    commands={
        "doctor": (
            "api.extras.doctor.commands:doctor",
            "Check everything that a refund needs.",
        ),
        "network": (
            "api.extras.doctor.probe_commands:network",
            "Find out what a network is like.",
        ),
    },
)
