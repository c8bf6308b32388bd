"""An archive in a bucket of an object store that speaks S3."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from services.audit.archives.targets import TargetError, TargetURLError

_GIVEN = {
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "session_token": "AWS_SESSION_TOKEN",
}
_INSTANCE_METADATA = "169.254."
_TIMEOUT = timedelta(seconds=30)
_RETRIES: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}


class BucketTarget:
    """An archive in a bucket, below a prefix.

    Credentials, region and endpoint come from the usual AWS_* variables.

    Args:
        bucket: its name.
        prefix: where in it; may be empty.
        environment: the variables.

    Raises:
        TargetURLError: a variable is bad.
    """

    at_once = 8

    def __init__(self, bucket: str, prefix: str, environment: Mapping[str, str]) -> None:
        """See the class."""
        self.name = f"s3://{bucket}/{prefix}".rstrip("/")
        endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
        config: dict[str, Any] = {"virtual_hosted_style_request": not endpoint}
        client: dict[str, Any] = {"timeout": _TIMEOUT, "connect_timeout": timedelta(seconds=5)}
        if endpoint:
            config["endpoint"] = endpoint
            client["allow_http"] = _plain_is_allowed(endpoint, environment)
        for option, variable in _GIVEN.items():
            if environment.get(variable):
                config[option] = environment[variable]
        region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
        config["region"] = region or "us-east-1"
        authority = environment.get("AWS_CA_BUNDLE")
        if authority:
            try:
                client["root_certificate"] = Path(authority).read_bytes()
            except OSError as error:
                msg = f"AWS_CA_BUNDLE: {authority}: {error.strerror}"
                raise TargetURLError(msg) from None
        try:
            self._store = S3Store(
                bucket,
                prefix=prefix or None,
                config=cast("Any", config),
                client_options=cast("Any", client),
                retry_config=_RETRIES,
            )
        except (BaseError, ValueError) as error:
            msg = f"{self.name}: {_first_line(error)}"
            raise TargetURLError(msg) from None

    def read(self, path: str) -> bytes | None:
        """Return what lies at a path; None when there is nothing."""
        try:
            with self._errors("read"):
                return bytes(obstore.get(self._store, path).bytes())
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise self._no_bucket() from None
            return None

    def write(self, path: str, data: bytes) -> None:
        """Put something at a path; the store acknowledges when it is durable."""
        try:
            with self._errors("write"):
                obstore.put(self._store, path, data, use_multipart=False)
        except FileNotFoundError:
            raise self._no_bucket() from None

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return every path below a prefix with its size."""
        found: dict[str, int] = {}
        try:
            with self._errors("list"):
                for page in obstore.list(self._store, prefix):
                    found.update((item["path"], item["size"]) for item in page)
        except FileNotFoundError:
            raise self._no_bucket() from None
        return found

    def remove(self, paths: Sequence[str]) -> None:
        """Remove what lies at these paths, in this order."""
        for path in paths:
            with suppress(FileNotFoundError), self._errors("delete"):
                obstore.delete(self._store, path)

    def _no_bucket(self) -> TargetError:
        return TargetError(f"{self.name}: there is no such bucket; make it, or mend the name")

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (PermissionDeniedError, UnauthenticatedError):
            msg = (
                f"{self.name}: the credentials may not {doing} here; look at AWS_ACCESS_KEY_ID, "
                f"AWS_SECRET_ACCESS_KEY and the bucket's policy (reading, writing, listing)"
            )
            raise TargetError(msg) from None
        except (BaseError, OSError, ValueError) as error:
            msg = f"{self.name}: cannot {doing}: {_first_line(error)}"
            if _INSTANCE_METADATA in msg:
                msg = (
                    f"{self.name}: there are no credentials: neither AWS_ACCESS_KEY_ID and "
                    f"AWS_SECRET_ACCESS_KEY, nor a role of this machine"
                )
            raise TargetError(msg) from None


def _plain_is_allowed(endpoint: str, environment: Mapping[str, str]) -> bool:
    """Say whether an endpoint is plain HTTP; refuse that beyond this machine unless asked for."""
    parts = urlsplit(endpoint)
    if parts.scheme == "https":
        return False
    if parts.scheme != "http" or not parts.hostname:
        msg = f"AWS_ENDPOINT_URL: {endpoint!r} is no http(s) address"
        raise TargetURLError(msg)
    try:
        local = ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        local = parts.hostname == "localhost"
    if not local and environment.get("AWS_ALLOW_HTTP", "").lower() != "true":
        msg = (
            "AWS_ENDPOINT_URL: plain http shows records on the wire; AWS_ALLOW_HTTP=true allows it"
        )
        raise TargetURLError(msg)
    return True


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return text[:300] or type(error).__name__
