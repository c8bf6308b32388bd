"""Translation between the vendors' dialects: requests, answers, streams, errors.

What has a counterpart is said in the other dialect's words; what has none is refused by its name.
Hints that change no answer may be left out, and then the response says which. docs/api/dialects.md
is the table.
"""
