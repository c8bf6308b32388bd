"""The exact cache: answers to deterministic requests, kept for a while for the caller who got them.

It is off unless operators give it a store. A request is the same only if every byte of it is, and
the caller, the model's targets and the headers that go along are too. What is kept is sealed, so
that the store learns nothing and cannot pass off one answer for another. A store that is slow, full
or gone is a miss, and never a failure.
"""
