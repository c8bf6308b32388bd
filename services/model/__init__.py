"""Model calls: providers behind one port, and the translation between vendor dialects.

It calls providers, counts what they used and says how an answer ended. It authenticates nobody,
redacts nothing and records nothing but its own state.
"""
