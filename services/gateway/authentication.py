"""Who is calling: API keys and JWTs, each to a principal.

A credential is looked up or verified, never logged, never kept in clear longer than the call. API
keys are tried first, those of the environment before managed ones; what is none and has dots
like a JWT is verified as one.
"""

import hashlib
from collections.abc import Callable, Iterable

from services.common.errors import Unauthenticated
from services.gateway.apikeys.cache import KeyCache
from services.gateway.apikeys.text import looks_managed
from services.gateway.principal import Principal
from services.gateway.tokens import Tokens

MAX_CREDENTIAL_BYTES = 8192
JWT_PARTS = 3


class APIKeys:
    """The API keys that a deployment allows, held as SHA-256 digests.

    Args:
        keys: the keys, in clear; they are not kept.
        tenant: the tenant of all of them.
        roles: the roles of all of them.
    """

    def __init__(self, keys: Iterable[str], *, tenant: str, roles: tuple[str, ...]) -> None:
        """See the class."""
        self._principals: dict[bytes, Principal] = {}
        for key in keys:
            digest = hashlib.sha256(key.encode()).digest()
            subject = f"key_{digest.hex()[:16]}"
            self._principals[digest] = Principal(tenant, "apikey", subject, tuple(sorted(roles)))

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._principals)

    def known(self, digest: bytes) -> Principal | None:
        """Return whose key this is the SHA-256 of, None if nobody's.

        The look-up is by digest, so its time tells nothing about how much of a key was right.
        """
        return self._principals.get(digest)


class Authenticator:
    """Turns the credentials of a call into a principal.

    Args:
        api_keys: None when API keys are not accepted.
        tokens: None when JWTs are not accepted.
        managed: None when no managed API keys are accepted.
    """

    def __init__(
        self, api_keys: APIKeys | None, tokens: Tokens | None, managed: KeyCache | None = None
    ) -> None:
        """See the class."""
        self._api_keys = api_keys
        self._tokens = tokens
        self._managed = managed

    async def authenticate(self, header: Callable[[str], str]) -> Principal:
        """Return who is calling.

        Args:
            header: looks up a request header by its name in lower case; "" when it is not there.

        Raises:
            Unauthenticated: no credential, or not a good one.
            Unavailable: what knows the credential cannot be asked.
        """
        credential = self._credential(header)
        digest = hashlib.sha256(credential.encode()).digest()
        if self._api_keys is not None:
            principal = self._api_keys.known(digest)
            if principal is None and self._managed is not None:
                principal = self._managed.known(digest)
                if principal is None and looks_managed(credential):
                    return await self._managed.find(credential, digest)
            if principal is not None:
                return principal
        if self._tokens is not None and credential.count(".") >= JWT_PARTS - 1:
            return await self._tokens.principal(credential, digest)
        msg = "The API key or token is not valid here."
        raise Unauthenticated(msg)

    def _credential(self, header: Callable[[str], str]) -> str:
        authorization = header("authorization")
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() != "bearer":
            credential = header("x-api-key")
        credential = credential.strip(" ")
        if not credential:
            msg = "No credential. Send `Authorization: Bearer <API key or token>`."
            raise Unauthenticated(msg, reason="MISSING_CREDENTIAL")
        if len(credential) > MAX_CREDENTIAL_BYTES:
            msg = f"The credential is longer than {MAX_CREDENTIAL_BYTES} bytes."
            raise Unauthenticated(msg)
        if not (credential.isascii() and credential.isprintable()):
            msg = "The credential has characters that are not printable ASCII."
            raise Unauthenticated(msg)
        return credential
