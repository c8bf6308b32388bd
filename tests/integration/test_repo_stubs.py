"""Other teams can call Weaver with the wheel of stubs alone."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CLIENT = """
import asyncio, sys
import grpc
from google.protobuf import descriptor_pb2
import weaver
from weaver.audit.v1 import audit_service_pb2_grpc
from weaver.gateway.v1 import gateway_service_pb2, gateway_service_pb2_grpc
from weaver.model.v1 import model_service_pb2_grpc
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

target, binpb = sys.argv[1:]
assert gateway_service_pb2.__file__.startswith(target), gateway_service_pb2.__file__
try:
    import services.common
except ImportError:
    pass
else:
    sys.exit("the services can be imported, so this shows nothing")

with grpc.insecure_channel("127.0.0.1:1") as channel:
    stub = gateway_service_pb2_grpc.GatewayServiceStub(channel)
    assert stub.Generate and stub.GenerateStream

async def main():
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        stub = gateway_service_pb2_grpc.GatewayServiceStub(channel)
        assert stub.Generate and stub.GenerateStream

asyncio.run(main())
files = descriptor_pb2.FileDescriptorSet.FromString(open(binpb, "rb").read()).file
names = {file.name for file in files}
assert {"weaver/gateway/v1/gateway_service.proto", "google/api/http.proto"} <= names
print("called")
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "tools/stubs.py", "--output", str(output)], cwd=ROOT, check=True
    )
    return output


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("client") / "site"
    (wheel,) = built.glob("weaver_stubs-*.whl")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--target", str(target), wheel], check=True)
    return target


def test_a_client_with_the_wheel_alone_has_both_kinds_of_stubs(
    built: Path, installed: Path
) -> None:
    script = installed.parent / "client.py"
    script.write_text(CLIENT)
    # The editable install puts the project on the path: leave its entries out.
    start = (
        "import runpy, sys; "
        f"sys.path[:] = [p for p in sys.path if p and not p.startswith({str(ROOT)!r}) "
        "or 'site-packages' in p]; "
        f"sys.path.insert(0, {str(installed)!r}); "
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", start, str(installed), str(built / "weaver.binpb")],
        cwd=installed.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr == ""
    assert result.stdout == "called\n"


def test_the_wheel_is_typed_and_carries_its_licence(installed: Path) -> None:
    assert (installed / "weaver" / "py.typed").exists()
    assert list(installed.glob("weaver/gateway/v1/*_grpc.pyi"))
    assert list(installed.glob("weaver_stubs-*.dist-info/licenses/LICENSE"))


def test_the_wheel_holds_nothing_but_the_stubs(installed: Path) -> None:
    names = {path.name for path in installed.iterdir()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"weaver"}
