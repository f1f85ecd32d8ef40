"""A client process with many long streams, which says when all draw: to be killed then."""

import asyncio
import sys

import grpc

from treeserve.pb import generation_pb2 as pb
from treeserve.pb import generation_pb2_grpc


async def visit(address: str, key: str, num_streams: int) -> None:
    metadata = (("authorization", key),)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)

        async def stream(number: int, began: asyncio.Event) -> None:
            params = pb.Parameters(
                sampling=pb.Sampling(seed=7), stopping=pb.Stopping(max_tokens=600, ignore_eos=True)
            )
            request = pb.GenerateRequest(text=f"{number} comes", params=params)
            async for message in stub.Generate(request, metadata=metadata):
                if message.samples:
                    began.set()

        events = [asyncio.Event() for _ in range(num_streams)]
        async with asyncio.TaskGroup() as group:
            for number, event in enumerate(events):
                group.create_task(stream(number, event))
            await asyncio.gather(*(event.wait() for event in events))
            print("all draw", flush=True)


if __name__ == "__main__":
    asyncio.run(visit(sys.argv[1], sys.argv[2], int(sys.argv[3])))
