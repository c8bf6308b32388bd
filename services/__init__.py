"""The services of Weaver, one package each; they meet in protos, never in Python."""
