"""Signing keys: what is refused, what is made, and where they may come from."""

import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from services.audit.keys import files as keyfiles
from services.audit.keys import signers as keys
from services.audit.keys.provenance import NOTHING_STATED, Provenance
from services.audit.keys.settings import sources
from services.audit.keys.signers import KeyProblem, Signer
from services.audit.keys.source import LoadedKey
from services.audit.settings import AuditSettings
from services.common.settings import SettingsError, load
from tests.fakes.auditlog import quick_keys, running_log

RSA, ED25519 = (text.encode() for text in quick_keys())
PUBLIC = Signer("x", keys.load_rsa(RSA, "test", production=False)).verifier.pem.encode()
EC = generate_private_key(SECP256R1()).private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
)
NAME = "WEAVER_TELEMETRY_SIGNING_KEY"


def loaded(**environment: str) -> list[LoadedKey]:
    """Return what the sources of an environment load."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEAVER_AUDIT_ED25519_KEY", ED25519.decode())
        for name, value in environment.items():
            patch.setenv(name, value)
        return [source.load() for source in sources(load(AuditSettings), made_time="")]


def file_of(path: Path, data: bytes, mode: int = 0o600) -> str:
    path.write_bytes(data)
    path.chmod(mode)
    return str(path)


def test_a_key_that_is_too_weak_is_refused() -> None:
    assert keys.load_rsa(RSA, "VARIABLE", production=False).key_size == 2048
    with pytest.raises(KeyProblem, match="VARIABLE: the RSA key has 2048 bits; at least 3072"):
        keys.load_rsa(RSA, "VARIABLE", production=True)
    weak = keys.private_pem(keys.generate_rsa(1024))
    with pytest.raises(KeyProblem, match="at least 2048"):
        keys.load_rsa(weak, "VARIABLE", production=False)


@pytest.mark.parametrize(
    ("pem", "sentence"),
    [
        (b"", "is empty"),
        (b"nonsense", "not PEM"),
        (b"/run/secrets/signing-key.pem", "looks like a path"),
        (b"\xff\x00", "not PEM"),
        (EC, "of another kind"),
        (ED25519, "of another kind"),
        (PUBLIC, "holds no private key but a public key; the private key is wanted"),
        (RSA[:400], "breaks off"),
        (RSA[:100] + b"AAAA" + RSA[104:], "damaged"),
        (RSA.replace(b"PRIVATE", b"OPENSSH PRIVATE"), "OpenSSH's format"),
    ],
)
def test_what_is_no_rsa_key_is_refused_without_showing_it(pem: bytes, sentence: str) -> None:
    with pytest.raises(KeyProblem, match=rf"^VARIABLE: .*{sentence}") as caught:
        keys.load_rsa(pem, "VARIABLE", production=False)
    assert "nonsense" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    with pytest.raises(KeyProblem, match="Ed25519"):
        keys.load_ed25519(RSA, "VARIABLE")


def test_an_encrypted_key_needs_its_passphrase() -> None:
    key = keys.generate_ed25519()
    encrypted = keys.private_pem(key, b"open sesame")
    with pytest.raises(KeyProblem, match="is encrypted, and no passphrase is set"):
        keys.load_ed25519(encrypted, "VARIABLE")
    with pytest.raises(KeyProblem, match="passphrase does not open"):
        keys.load_ed25519(encrypted, "VARIABLE", passphrase=b"wrong")
    opened = keys.load_ed25519(encrypted, "VARIABLE", passphrase=b"open sesame")
    assert opened.public_key() == key.public_key()
    assert keys.load_ed25519(ED25519, "VARIABLE", passphrase=b"not needed")


@pytest.mark.parametrize("name", [NAME, "WEAVER_AUDIT_ED25519_KEY"])
def test_a_locked_key_names_the_variable_of_its_passphrase(tmp_path: Path, name: str) -> None:
    key = keys.generate_rsa(2048) if name == NAME else keys.generate_ed25519()
    with pytest.MonkeyPatch.context() as patch:
        locked = file_of(tmp_path / "key.pem", keys.private_pem(key, b"sesame"))
        patch.setenv(f"{name}_FILE", locked)
        found = sources(load(AuditSettings), made_time="")[name != NAME]
        with pytest.raises(KeyProblem, match=f"{name}_FILE: .* set {name}_PASSPHRASE or "):
            found.load()


def test_an_empty_key_file_is_not_taken_for_a_variable_that_is_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("WEAVER_TLS_DIR", str(tmp_path))
    monkeypatch.setenv(f"{NAME}_FILE", file_of(tmp_path / "empty.pem", b"\n"))
    with pytest.raises(SettingsError, match=f"^{NAME}_FILE: is empty"):
        load(AuditSettings)


def test_a_key_that_openssl_encrypted_is_opened(tmp_path: Path) -> None:
    made = tmp_path / "key.pem"
    for form in (["-traditional"], []):
        (tmp_path / "plain.pem").write_bytes(RSA)
        command = ["openssl", "rsa", "-aes256", "-passout", "pass:sesame", *form]
        subprocess.run(
            [*command, "-in", tmp_path / "plain.pem", "-out", made], check=True, capture_output=True
        )
        assert b"ENCRYPTED" in made.read_bytes()
        made.chmod(0o600)
        (key, _) = loaded(
            WEAVER_TELEMETRY_SIGNING_KEY_FILE=str(made),
            WEAVER_TELEMETRY_SIGNING_KEY_PASSPHRASE="sesame",
        )
        assert key.signer.verifier.pem.encode() == PUBLIC


def test_a_public_key_must_be_the_other_half() -> None:
    private = keys.load_ed25519(ED25519, "test")
    own = Signer("name", private).verifier.pem.encode()
    other = Signer("name", keys.generate_ed25519()).verifier.pem.encode()
    keys.check_pair(private, own, "VARIABLE")
    for pem in (other, b"nonsense", EC, ED25519):
        with pytest.raises(KeyProblem, match="VARIABLE"):
            keys.check_pair(private, pem, "VARIABLE")


@pytest.mark.parametrize(
    ("mode", "who"),
    [(0o644, "everybody"), (0o604, "everybody"), (0o640, "group"), (0o620, "group")],
)
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int, who: str) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(KeyProblem, match="cannot read"):
        keyfiles.check_file(path, "VARIABLE_FILE")
    file_of(path, RSA, mode)
    with pytest.raises(KeyProblem, match=rf"VARIABLE_FILE: .* by (its )?{who}; `chmod 600`"):
        keyfiles.check_file(path, "VARIABLE_FILE")
    for good in (0o600, 0o400):
        path.chmod(good)
        keyfiles.check_file(path, "VARIABLE_FILE")


def test_a_group_may_read_what_another_user_owns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mounted secret belongs to root; its group is how another user gets at it."""
    path = tmp_path / "key.pem"
    file_of(path, RSA, 0o440)
    monkeypatch.setattr(os, "geteuid", lambda: 4_711)
    keyfiles.check_file(path, "VARIABLE_FILE")
    for mode in (0o460, 0o444):
        path.chmod(mode)
        with pytest.raises(KeyProblem, match="VARIABLE_FILE"):
            keyfiles.check_file(path, "VARIABLE_FILE")


def test_a_file_that_is_no_key_is_not_read_whole(tmp_path: Path) -> None:
    large = tmp_path / "large"
    file_of(large, b"x" * (keyfiles.LARGEST + 1))
    for path in (tmp_path, large, tmp_path / "missing"):
        with pytest.raises(KeyProblem, match="VARIABLE_FILE"):
            keyfiles.read_file(path, "VARIABLE_FILE", private=False)


def test_key_files_are_for_their_owner_and_never_replaced_unasked(tmp_path: Path) -> None:
    where = tmp_path / "keys"
    one, two = keys.generate_ed25519(), keys.generate_ed25519()
    keyfiles.write_private(where / "key.pem", one)
    keyfiles.write_public(where / "public.pem", one)
    assert where.stat().st_mode & 0o777 == 0o700
    assert (where / "key.pem").stat().st_mode & 0o777 == 0o600
    assert (where / "public.pem").stat().st_mode & 0o777 == 0o644
    with pytest.raises(KeyProblem, match="File exists"):
        keyfiles.write_private(where / "key.pem", two)
    assert (where / "key.pem").read_bytes() == keys.private_pem(one)
    keyfiles.write_private(where / "key.pem", two, replace=True)
    assert (where / "key.pem").read_bytes() == keys.private_pem(two)
    assert sorted(path.name for path in where.iterdir()) == ["key.pem", "public.pem"]


def test_development_keys_are_made_once_and_say_so(tmp_path: Path) -> None:
    first = loaded(WEAVER_STATE_DIR=str(tmp_path))
    again = loaded(WEAVER_STATE_DIR=str(tmp_path))
    assert [key.signer.verifier for key in first] == [key.signer.verifier for key in again]
    where = tmp_path / "keys"
    public = (where / keyfiles.RSA_PUBLIC_FILE).read_text()
    assert public == first[0].signer.verifier.pem
    assert first[0].provenance.reason == "first start"
    assert (where / keyfiles.RSA_FILE).stat().st_mode & 0o777 == 0o600


def test_provenance_travels_behind_the_key_and_every_parser_skips_it(tmp_path: Path) -> None:
    stated = Provenance("ann@laptop", "laptop", "2026-11-23T10:00:00Z", "quarterly\nx", "staging")
    path = tmp_path / "key.pem"
    keyfiles.write_private(path, keys.load_ed25519(ED25519, "x"), provenance=stated)
    text = path.read_bytes()
    assert text.startswith(b"-----BEGIN PRIVATE KEY-----\n")  # pragma: allowlist secret
    found = Provenance.of(text)
    assert found == Provenance(
        "ann@laptop", "laptop", "2026-11-23T10:00:00Z", "quarterly x", "staging"
    )
    assert keys.load_ed25519(text, "x").public_key() == keys.load_ed25519(ED25519, "x").public_key()
    command = ["openssl", "pkey", "-noout", "-in", str(path)]
    done = subprocess.run(command, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert Provenance.of(ED25519) == NOTHING_STATED
    assert Provenance.of(b"Weaver-Key-Unknown: x\n") == NOTHING_STATED


def test_a_signer_shows_its_public_half_alone() -> None:
    signer = Signer("name", keys.load_rsa(RSA, "test", production=False))
    assert repr(signer) == f"Signer(RSA {signer.verifier.fingerprint})"


@pytest.mark.parametrize("missing", [NAME, "WEAVER_AUDIT_ED25519_KEY"])
def test_production_needs_keys_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("WEAVER_TLS_DIR", str(tmp_path))
    monkeypatch.setenv(NAME, RSA.decode())
    monkeypatch.setenv("WEAVER_AUDIT_ED25519_KEY", ED25519.decode())
    monkeypatch.setenv("WEAVER_AUDIT_STORE_KEY", "made up")
    load(AuditSettings)
    monkeypatch.delenv(missing)
    with pytest.raises(SettingsError, match=f"{missing}: production needs a key"):
        load(AuditSettings)


def test_production_cannot_switch_signing_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("WEAVER_TLS_DIR", str(tmp_path))
    monkeypatch.setenv("WEAVER_TELEMETRY_SIGNING_ENABLED", "false")
    with pytest.raises(SettingsError, match="WEAVER_TELEMETRY_SIGNING_ENABLED"):
        load(AuditSettings)


def test_a_key_comes_from_a_variable_a_file_or_a_mounted_secret(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    file_of(tmp_path / "..data" / "signing-key", RSA, 0o400)
    (tmp_path / "signing-key").symlink_to("..data/signing-key")
    mounted = tmp_path / "signing-key"
    public = file_of(tmp_path / "public.pem", PUBLIC, 0o644)
    written_out = file_of(tmp_path / "written-out", RSA.replace(b"\n", b"\\n"))
    windows = file_of(tmp_path / "windows", RSA.replace(b"\n", b"\r\n"))
    for environment in (
        {NAME: RSA.decode()},
        {NAME: RSA.decode().replace("\n", "\\n")},
        {NAME: RSA.decode().replace("\n", "\\n"), "WEAVER_TELEMETRY_VERIFICATION_KEY": ""},
        {f"{NAME}_FILE": str(mounted), f"{NAME}_PREVIOUS": "", f"{NAME}_PASSPHRASE": ""},
        {f"{NAME}_FILE": str(mounted), "WEAVER_TELEMETRY_VERIFICATION_KEY_FILE": public},
        {f"{NAME}_FILE": written_out},
        {f"{NAME}_FILE": windows},
    ):
        rsa, ed25519 = loaded(**environment)
        assert rsa.signer.verifier.pem.encode() == PUBLIC
        assert (rsa.previous, ed25519.previous) == ((), ())


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({NAME: "nonsense"}, f"{NAME}: .* not PEM"),
        ({NAME: ""}, f"{NAME}: is empty"),
        ({NAME: PUBLIC.decode()}, f"{NAME}: .* public key"),
        ({f"{NAME}_PREVIOUS": "nonsense"}, f"{NAME}_PREVIOUS: .* not PEM"),
        ({f"{NAME}_PREVIOUS": ED25519.decode()}, f"{NAME}_PREVIOUS: holds no RSA"),
        ({f"{NAME}_PREVIOUS": EC.decode()}, f"{NAME}_PREVIOUS: .* neither RSA nor Ed25519"),
        ({"WEAVER_TELEMETRY_VERIFICATION_KEY": "x"}, "WEAVER_TELEMETRY_VERIFICATION_KEY: "),
        (
            {"WEAVER_TELEMETRY_VERIFICATION_KEY": RSA.decode()},
            "WEAVER_TELEMETRY_VERIFICATION_KEY: holds a private key",
        ),
    ],
)
def test_the_message_names_the_variable(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(KeyProblem, match=f"^{sentence}"):
        loaded(**{NAME: RSA.decode(), **environment})


def test_the_message_names_the_variable_of_a_file(tmp_path: Path) -> None:
    for data, mode, sentence in (
        (RSA, 0o644, f"{NAME}_FILE: .* everybody"),
        (RSA, 0o640, f"{NAME}_FILE: .* group"),
        (b"nonsense", 0o600, f"{NAME}_FILE: .* not PEM"),
        (keys.private_pem(keys.generate_rsa(2048), b"x"), 0o600, f"{NAME}_FILE: .* no passphrase"),
    ):
        path = file_of(tmp_path / "key", data, mode)
        with pytest.raises(KeyProblem, match=sentence):
            loaded(**{f"{NAME}_FILE": path})
    binary = file_of(tmp_path / "key", b"\xff\xfe\x00", 0o600)
    with pytest.raises(SettingsError, match=f"{NAME}_FILE: .* holds no text"):
        loaded(**{f"{NAME}_FILE": binary})


def test_previous_keys_may_be_several_and_lie_beside_the_key(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    file_of(path, RSA)
    older = [keys.private_pem(keys.generate_rsa(2048)) for _ in range(2)]
    file_of(keyfiles.previous_file(path), b"".join([*older, RSA]))
    assert keyfiles.previous_file(path).name == "key.previous.pem"
    (rsa, _) = loaded(**{f"{NAME}_FILE": str(path)})
    expected = [Signer("x", keys.load_rsa(pem, "x", production=False)) for pem in older]
    assert [signer.verifier.pem for signer in rsa.previous] == [
        signer.verifier.pem for signer in expected
    ]


async def test_a_mismatched_verification_key_stops_the_start(tmp_path: Path) -> None:
    other = Signer("name", keys.generate_ed25519()).verifier.pem
    with pytest.raises(SettingsError, match="WEAVER_TELEMETRY_VERIFICATION_KEY"):
        async with running_log(tmp_path, verification_key=other):
            pass


@pytest.mark.parametrize("origin", ["a b", "a+b", "a\nb"])
def test_an_origin_that_is_no_key_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    monkeypatch.setenv("WEAVER_AUDIT_ORIGIN", origin)
    with pytest.raises(SettingsError, match="WEAVER_AUDIT_ORIGIN"):
        load(AuditSettings)
    monkeypatch.setenv("WEAVER_AUDIT_ORIGIN", "audit.example.com/log")
    monkeypatch.setenv("WEAVER_AUDIT_REPLICA", "a/b")
    with pytest.raises(SettingsError, match="WEAVER_AUDIT_REPLICA"):
        load(AuditSettings)


def test_settings_name_what_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAVER_AUDIT_ALLOWED_CLIENTS", "gateway, other")
    monkeypatch.setenv("WEAVER_AUDIT_ORIGIN", "audit.example.com/log")
    monkeypatch.setenv("WEAVER_AUDIT_PATH", "/var/log/weaver/audit")
    settings = load(AuditSettings)
    assert settings.allowed_clients == {"gateway", "other"}
    assert settings.log_origin == "audit.example.com/log"
    assert settings.log_path == Path("/var/log/weaver/audit")
