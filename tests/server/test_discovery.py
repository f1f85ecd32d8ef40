"""What a generic gRPC client learns by reflection."""

from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc


async def ask(channel, **request):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**request)]))
    [response] = [response async for response in call]
    return response


async def test_every_service_is_listed(server, channel):
    response = await ask(channel, list_services="")
    assert {service.name for service in response.list_services_response.service} == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "treeserve.v1.GenerationService",
        "treeserve.v1.ModuleService",
        "treeserve.v1.PrefixService",
        "treeserve.v1.TreeService",
    }


async def test_the_service_describes_its_methods(server, channel):
    response = await ask(channel, file_containing_symbol="treeserve.v1.GenerationService")
    [data] = response.file_descriptor_response.file_descriptor_proto
    [service] = descriptor_pb2.FileDescriptorProto.FromString(data).service
    assert [method.name for method in service.method] == [
        "Generate",
        "GenerateTree",
        "Fork",
        "Abort",
        "Tokenize",
        "Detokenize",
        "CountTokens",
    ]
    streaming = [method.name for method in service.method if method.server_streaming]
    assert streaming == ["Generate", "GenerateTree", "Fork"]
