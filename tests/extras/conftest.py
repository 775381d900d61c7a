"""How long a property may take says more about the machine than about the code."""

from hypothesis import settings


settings.register_profile("house", deadline=None, print_blob=True)
settings.load_profile("house")
