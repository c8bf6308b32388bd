"""What holds for every test."""

from hypothesis import settings

# A deadline would fail a property for a slow moment of the machine, not for a defect.
settings.register_profile("weaver", deadline=None)
settings.load_profile("weaver")
