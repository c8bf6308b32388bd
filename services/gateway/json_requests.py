"""What administrators send as JSON: read strictly, and no field of it left unread.

The front door would leave out without a word what a message has no field for, and a key that was to
have a `limit` instead of `limits` had none. So bodies arrive as they were sent, and are read here.
"""

from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from services.common.errors import InvalidArgument
from services.gateway.strict_json import NotStrictError, read_object

_BODY = "json"
_ID = "id"
_LONGEST = 200
# A mask of fields is a text in JSON, a time too.
_WELL_KNOWN = "google.protobuf."


def read(request: Message) -> None:
    """Put what a request's body says into the request, in the place of all but its `id`.

    A request without a body, such as one by gRPC, stays as it is.

    Raises:
        InvalidArgument: names the field that is unknown or holds something else.
    """
    if _BODY not in request.DESCRIPTOR.fields_by_name or not request.HasField(_BODY):
        return
    data: bytes = getattr(request, _BODY).data
    asked = _document(data) if data.strip() else {}
    _refuse_unknown(asked, request.DESCRIPTOR, "")
    of_path = getattr(request, _ID, "")
    request.Clear()
    for name, value in asked.items():
        try:
            json_format.ParseDict({name: value}, request)
        except json_format.ParseError as error:
            raise InvalidArgument.of_field(name, f"cannot be read: {_said(error)}") from None
    if of_path:
        if getattr(request, _ID) not in {"", of_path}:
            raise InvalidArgument.of_field(_ID, "is another in the body than in the path.")
        setattr(request, _ID, of_path)


def _document(data: bytes) -> dict[str, Any]:
    try:
        return read_object(data)
    except NotStrictError as error:
        msg = f"The body {error}."
        raise InvalidArgument(msg) from None


def _refuse_unknown(document: dict[str, Any], kind: Any, at: str) -> None:  # noqa: ANN401 - of two
    fields = {field.name: field for field in kind.fields if field.name != _BODY}
    by_name = fields | {field.json_name: field for field in fields.values()}
    for name, value in document.items():
        field = by_name.get(name)
        if field is None:
            known = ", ".join(fields)
            raise InvalidArgument.of_field(
                f"{at}{name}"[:_LONGEST], f"is unknown: {known} are not."
            )
        kind_of_value = field.message_type
        if kind_of_value is None or kind_of_value.full_name.startswith(_WELL_KNOWN):
            continue
        if isinstance(value, dict):
            _refuse_unknown(value, kind_of_value, f"{at}{name}.")
        elif value is not None:
            raise InvalidArgument.of_field(f"{at}{name}", "must be an object.")


def _said(error: json_format.ParseError) -> str:
    return str(error).rpartition("field: ")[2].partition("\n")[0][:_LONGEST]
