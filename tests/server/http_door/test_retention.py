"""A prompt that is retained through the HTTP door is retained in the engine."""

import openai
from server.side_house import HOME, running_house

from treeserve.config import EngineOptions

MODEL = "treeserve"


async def test_a_prompt_is_retained_for_a_day(checkpoint_of):
    options = EngineOptions(model=str(checkpoint_of("llama")), num_pages=64, page_size=16)
    async with running_house(options) as house:
        [(_, bearer)] = house.own_key
        url = f"http://{house.server.http_address}/v1"
        async with openai.AsyncOpenAI(
            base_url=url, api_key=bearer.split()[1], max_retries=0
        ) as client:
            prompt = "A prompt that is worth keeping for a while."
            body = {"prompt_cache_retention": "24h"}
            await client.completions.create(
                model=MODEL, prompt=prompt, max_tokens=2, extra_body=body
            )
            plain = {"prompt_cache_retention": "in_memory"}
            await client.completions.create(
                model=MODEL, prompt="not this", max_tokens=2, extra_body=plain
            )
        [held] = (await house.backstage.keeper.retained(HOME)).prefixes
        assert held.num_tokens == len(prompt)
        assert 86_000 < held.seconds_left <= 86_400
