"""The `weaver` command: one group of commands a file, loaded when it is asked for.

`weaver up` must be ready within seconds, so a command imports nothing that another needs.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

INTERRUPTED = 130

COMMANDS = {
    "up": "services.cli.up",
    "serve": "services.cli.serve",
    "token": "services.cli.token",
    "chat": "services.cli.chat",
    "keys": "services.cli.keys",
    "apikeys": "services.cli.apikeys",
    "roles": "services.cli.roles",
    "audit": "services.cli.audit",
    "backup": "services.cli.backup",
    "doctor": "services.cli.doctor",
    "envoy": "services.cli.envoy",
    "secrets": "services.cli.deployment_secrets",
}
"""Each command's module, in the order of `--help`; its `app` is a Typer application."""


def application(arguments: Sequence[str]) -> "typer.Typer":
    """Return the application with the command that the arguments name, or with all of them."""
    import typer  # noqa: PLC0415 - so that Ctrl-C is ours from the first moment

    app = typer.Typer(
        name="weaver",
        help="The AI gateway that proves what happened.",
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    # With one command alone Typer would drop its name; a callback keeps it.
    app.callback()(lambda: None)
    asked = arguments[0] if arguments else ""
    for name in [asked] if asked in COMMANDS else COMMANDS:
        group: typer.Typer = importlib.import_module(COMMANDS[name]).app
        single = not group.registered_groups and [c.name for c in group.registered_commands] == [
            name
        ]
        app.add_typer(group, name=None if single else name)
    return app


def main() -> None:
    """Run the command line."""
    try:
        application(sys.argv[1:])()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
