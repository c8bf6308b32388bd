"""`weaver backup`: copies of what the services hold, sealed, pruned, and proven to come back.

The audit log has `weaver audit archive`; the rest is here. Exit codes: 0 good, 1 a backup is
missing or damaged, 2 called in a wrong way, 3 store or target cannot be used now.
"""

import typer

from services.cli.backup import drilling, restoring, scheduling, shelving, taking

app = typer.Typer(
    name="backup", help="Back up and restore store, keys and side store.", no_args_is_help=True
)
for group in (taking.app, shelving.app, restoring.app, drilling.app, scheduling.app):
    app.add_typer(group)
