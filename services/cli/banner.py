"""What `weaver up` says when the suite is ready, to people and to programs."""

import json
import os
import shlex
import sys
from pathlib import Path

from services.cli.suite import Suite

BODY = '{"model": "MODEL", "messages": [{"role": "user", "content": "Hello"}]}'


def for_people(suite: Suite) -> str:
    """Return the banner: what to paste, and where things lie."""
    key = suite.api_key
    shown = key or "one of your WEAVER_ALLOWED_API_KEYS"
    body = BODY.replace("MODEL", os.environ.get("WEAVER_MODEL_NAME", "stub-model"))
    ca, log = _near(suite.ca), _near(suite.audit_log)
    weaver = _near(Path(sys.argv[0])) if sys.argv[0].endswith("weaver") else "weaver"
    return f"""
Weaver is ready: {suite.url}

  API key       {shown}
  CA            {ca}
  audit log     {log}

Ask something:

  curl --cacert {ca} {suite.url}/v1/chat/completions \\
    -H "Authorization: Bearer {shown}" -H "Content-Type: application/json" \\
    -d '{body}'

  {weaver} chat "Hello"

Check that the log is whole:

  {weaver} audit verify {log}

THIS IS A DEVELOPMENT ENVIRONMENT: keys and certificates were made on this machine, anyone who can
read {_near(suite.state)} can act as anybody. Do not expose it. Ctrl-C ends it.
"""


def for_programs(suite: Suite) -> str:
    """Return one line of JSON."""
    facts = {
        "event": "ready",
        "url": suite.url,
        "ca": str(suite.ca.absolute()),
        "api_key": suite.api_key,
        "audit_log": str(suite.audit_log.absolute()),
        "state_dir": str(suite.state.absolute()),
        "status": str(suite.run.status),
        **suite.status(),
    }
    return json.dumps(facts)


def _near(path: Path) -> str:
    """Return a path as it can be pasted: relative when it lies below the working directory."""
    absolute = path.absolute()
    here = Path.cwd()
    near = absolute.relative_to(here) if absolute.is_relative_to(here) else absolute
    return shlex.quote(str(near))
