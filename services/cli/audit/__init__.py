"""`weaver audit`: verify a log, read it, write and check receipts. No service is needed.

Exit codes: 0 good, 1 damaged or not proven, 2 called in a wrong way. One group of commands a file.
"""

import typer

from services.cli.audit import (
    archive,
    erasure,
    exporting,
    listing,
    mirroring,
    prune,
    receipts,
    verification,
    witness,
)

app = typer.Typer(name="audit", help="Verify and read the audit log.", no_args_is_help=True)

_GROUPS = (
    verification,
    listing,
    exporting,
    mirroring,
    receipts,
    witness,
    archive,
    prune,
    erasure,
)
for _group in _GROUPS:
    app.add_typer(_group.app)
