"""`weaver keys generate`: a new RSA pair and a new Ed25519 key."""

import json
import sys

import typer

from services.audit.keys.files import (
    ED25519_FILE,
    RSA_FILE,
    RSA_PUBLIC_FILE,
    write_private,
    write_public,
)
from services.audit.keys.settings import ED25519_VARIABLE
from services.audit.keys.signers import (
    DEFAULT_RSA_BITS,
    RSA_SIZES,
    KeyProblem,
    PrivateKey,
    Signer,
    generate_ed25519,
    generate_rsa,
)
from services.cli.keys.options import (
    AsJSON,
    Bits,
    By,
    Directory,
    For,
    Reason,
    busy,
    key_sources,
    passphrase_of,
    settings_of,
    stated,
    usage,
)

app = typer.Typer()

_FILES = {
    RSA_FILE: "WEAVER_TELEMETRY_SIGNING_KEY_FILE",
    RSA_PUBLIC_FILE: "WEAVER_TELEMETRY_VERIFICATION_KEY_FILE",
    ED25519_FILE: "WEAVER_AUDIT_ED25519_KEY_FILE",
}


@app.command("generate")
def generate_command(  # noqa: PLR0913, PLR0917 - each is an option
    directory: Directory = None,
    bits: Bits = DEFAULT_RSA_BITS,
    reason: Reason = "generated",
    by: By = "",
    environment: For = "",
    as_json: AsJSON = False,  # noqa: FBT002 - a flag
) -> None:
    """Make an RSA and an Ed25519 key: files 0600, directory 0700. Never overwrites one.

    Where a passphrase is set for a key, the key is written encrypted.
    """
    settings = settings_of(None)
    where = directory or settings.keys_path
    if bits not in RSA_SIZES:
        usage(f"--bits: {bits} is none of {', '.join(map(str, RSA_SIZES))}")
    for name in _FILES:
        if (where / name).exists():
            usage(
                f"{where / name} is there already; nothing was made. "
                f"`weaver keys rotate` replaces keys."
            )
    provenance = stated(reason, by, environment)
    made: dict[str, PrivateKey] = {}
    try:
        passphrases = {s.algorithm: passphrase_of(s) for s in key_sources(settings)}
        with busy("making keys"):
            made[RSA_FILE] = generate_rsa(bits)
            made[ED25519_FILE] = generate_ed25519()
        for name, key in made.items():
            passphrase = passphrases.get("RSA" if name == RSA_FILE else "Ed25519")
            write_private(where / name, key, provenance=provenance, passphrase=passphrase)
        write_public(where / RSA_PUBLIC_FILE, made[RSA_FILE])
    except KeyProblem as error:
        usage(str(error))
    if passphrases.get("RSA") and not passphrases.get("Ed25519"):
        sys.stderr.write(
            f"warning: {where / ED25519_FILE} is not encrypted; its passphrase is "
            f"{ED25519_VARIABLE}_PASSPHRASE or {ED25519_VARIABLE}_PASSPHRASE_FILE\n"
        )
    if as_json:
        keys = [
            {
                "algorithm": signer.verifier.algorithm,
                "fingerprint": signer.verifier.fingerprint,
                "private_key": str(where / name),
                "variable": _FILES[name],
            }
            for name, signer in ((name, Signer("new", key)) for name, key in made.items())
        ]
        document = {"keys": keys, "public_key": str(where / RSA_PUBLIC_FILE)}
        sys.stdout.write(json.dumps(document) + "\n")
        return
    for name, variable in _FILES.items():
        sys.stdout.write(f"{variable}={where / name}\n")
