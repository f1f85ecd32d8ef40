"""Who reaches the services beside generation: TLS, certificates, reflection, over real sockets."""

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from server.certificates import Authority
from server.listening import LOOPBACK, listening
from server.side_house import error_of, running_house

from treeserve.config import EngineOptions
from treeserve.pb import admin_pb2, admin_pb2_grpc, prefix_pb2, prefix_pb2_grpc
from treeserve.server.config import AccessConfig, TlsFiles

CODE = grpc.StatusCode


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def files(authority) -> TlsFiles:
    server = authority.sign("server")
    return TlsFiles(server.cert, server.key)


def trusting(authority: Authority, client=None) -> grpc.ChannelCredentials:
    roots = authority.cert.read_bytes()
    if client is None:
        return grpc.ssl_channel_credentials(roots)
    return grpc.ssl_channel_credentials(roots, client.key.read_bytes(), client.cert.read_bytes())


async def test_the_admin_address_speaks_tls_where_the_others_do(files, authority, text_service):
    async with listening(text_service, tls=files, admin_address=LOOPBACK) as server:
        target = str(server.side.admin_address)
        async with grpc.aio.secure_channel(target, trusting(authority)) as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            assert (await stub.GetStatus(admin_pb2.GetStatusRequest())).phase == "ready"
        async with grpc.aio.insecure_channel(target) as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            error = await error_of(stub.GetStatus(admin_pb2.GetStatusRequest()))
            assert error.code() is CODE.UNAVAILABLE


async def test_a_client_certificate_opens_all_but_administration(files, authority, text_service):
    tls = TlsFiles(files.cert, files.key, authority.cert)
    async with listening(text_service, tls=tls, admin_address=LOOPBACK) as server:
        target = str(server.side.admin_address)
        async with grpc.aio.secure_channel(target, trusting(authority)) as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            error = await error_of(stub.GetStatus(admin_pb2.GetStatusRequest()))
            assert error.code() is CODE.UNAVAILABLE, "nobody enters without a certificate"
        known = trusting(authority, authority.sign("acme"))
        async with grpc.aio.secure_channel(target, known) as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            error = await error_of(stub.GetStatus(admin_pb2.GetStatusRequest()))
            assert error.code() is CODE.PERMISSION_DENIED
        async with grpc.aio.secure_channel(str(server.grpc_address), known) as channel:
            stub = prefix_pb2_grpc.PrefixServiceStub(channel)
            error = await error_of(stub.ListSaved(prefix_pb2.ListSavedRequest()))
            assert error.code() is CODE.FAILED_PRECONDITION, "it may, and there is no engine"


async def test_a_call_without_a_key_reaches_none_of_the_services(checkpoint_of, tmp_path):
    options = EngineOptions(model=str(checkpoint_of("llama")), num_pages=16)
    async with running_house(options, tmp_path) as house:
        for metadata in ((), (("authorization", "Bearer nonsense"),)):
            for call in (
                house.prefix.ListSaved(prefix_pb2.ListSavedRequest(), metadata=metadata),
                house.admin.Drain(admin_pb2.DrainRequest(), metadata=metadata),
            ):
                assert (await error_of(call)).code() is CODE.UNAUTHENTICATED
        status = await house.admin.GetStatus(admin_pb2.GetStatusRequest())
        assert status.phase == "ready"


@pytest.mark.parametrize("name", ["TreeService", "PrefixService"])
@pytest.mark.parametrize("reflection", [True, False])
async def test_reflection_describes_all_services_or_none(text_service, name, reflection):
    access = AccessConfig(reflection=reflection)
    async with (
        listening(text_service, access=access) as server,
        grpc.aio.insecure_channel(str(server.grpc_address)) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        symbol = f"treeserve.v1.{name}"
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
        call = stub.ServerReflectionInfo(iter([request]))
        if reflection:
            [reply] = [reply async for reply in call]
            assert reply.file_descriptor_response.file_descriptor_proto
            return
        assert (await error_of(call)).code() is CODE.UNIMPLEMENTED
