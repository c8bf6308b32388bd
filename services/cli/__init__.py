"""The `weaver` command, one file per group of commands.

It starts the suite on one machine and gives operators and auditors their tools. It holds no logic
that a service needs.
"""
