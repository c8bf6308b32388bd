"""`weaver apikeys`: make, list, change, switch and rotate the API keys of callers.

Through the front door, as an administrator whose every change is recorded; or with `--store` past
it, where no gateway runs yet. Exit codes: 0 done, 1 refused or not reached, 2 called in a wrong
way, 3 done, but not yet confirmed by a replica or by the disk of the store.
"""

import typer

from services.cli.apikeys import changing, creating, showing

app = typer.Typer(
    name="apikeys", help="Make, list, change and rotate API keys.", no_args_is_help=True
)
for group in (creating.app, showing.app, changing.app):
    app.add_typer(group)
