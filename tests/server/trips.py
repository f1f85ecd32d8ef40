"""A schema of a trip, prompts that import it, and what they draw."""

from types import SimpleNamespace

from treeserve.pb import generation_pb2
from treeserve.pb import module_pb2 as pb

SCHEMA = """<schema name="trip">You plan trips.
<module name="plan">Plan <parameter name="days" length="4"/> days.</module>
<union><module name="oslo">It goes to Oslo.</module><module name="rome">To Rome!</module></union>
<scaffold name="both" modules="plan oslo"/>
</schema>"""
PROMPT = '<prompt schema="trip" max_tokens="5"><plan days="two"/><rome/>Where first?</prompt>'
PARAMS = generation_pb2.Parameters(
    sampling=generation_pb2.Sampling(temperature=0),
    stopping=generation_pb2.Stopping(max_tokens=6, ignore_eos=True),
)


async def put(house, pml=SCHEMA, **more):
    return await house.module.PutSchema(pb.PutSchemaRequest(pml=pml), **more)


def asking(pml=PROMPT, *, params=PARAMS, exact=False, fields=None):
    content = {"pml": pml} if fields is None else {"fields": fields}
    modules = generation_pb2.ModulePrompt(exact=exact, **content)
    return generation_pb2.GenerateRequest(modules=modules, params=params)


async def drawn(stream) -> SimpleNamespace:
    """Token ids by (path, sample), and the usages."""
    found = SimpleNamespace(tokens={}, usages=[], tree_usage=None, request_id=None)
    async for message in stream:
        path = tuple(getattr(message, "path", ()))
        if message.HasField("started"):
            found.request_id = message.started.request_id
        for sample in message.samples:
            found.tokens.setdefault((path, sample.index), []).extend(sample.token_ids)
        if message.HasField("usage"):
            found.usages.append(message.usage)
        if hasattr(message, "tree_usage") and message.HasField("tree_usage"):
            found.tree_usage = message.tree_usage
    return found
