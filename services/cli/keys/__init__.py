"""`weaver keys`: make, rotate, list and check the keys that sign the audit log.

Exit codes: 0 good, 1 a key is not, 2 called in a wrong way.
"""

import typer

from services.cli.keys import checking, generation, listing, rotating

app = typer.Typer(
    name="keys", help="Make, rotate, list and check signing keys.", no_args_is_help=True
)
for group in (generation.app, rotating.app, listing.app, checking.app):
    app.add_typer(group)
