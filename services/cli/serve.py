"""`weaver serve`: one service in this process, as in production."""

import importlib
from typing import Annotated, Literal

import typer

Service = Literal["gateway", "ratelimit", "model", "audit"]

app = typer.Typer()


@app.command("serve")
def serve(
    service: Annotated[Service, typer.Argument(help="Which service to run.")],
) -> None:
    """Run one service until it is told to stop; its settings are in the environment."""
    importlib.import_module(f"services.{service}.__main__").main()
