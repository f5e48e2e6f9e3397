"""The official Python client, unmodified, against a running Armature server. Usage: openai_client.py BASE_URL"""

import asyncio
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
passed = 0


def check(name: str, condition: bool, found: object = "") -> None:
    global passed
    if not condition:
        print(f"FAILED {name}: {found}")
        sys.exit(1)
    passed += 1
    print(f"ok {name}")


def raises(name: str, kind: type, code: str, call) -> None:
    try:
        call()
    except kind as error:
        check(name, error.code == code, error.code)
        return
    check(name, False, "no error")


models = client.models.list().data
check("models.list", [m.id for m in models] == ["demo"], models)
check("models.retrieve", client.models.retrieve("demo").id == "demo")

messages = [{"role": "user", "content": "My cat is called Biscuit. My sister lives in Oslo. My number is 47."}]
first = client.chat.completions.create(model="demo", messages=messages, temperature=0)
messages += [{"role": "assistant", "content": first.choices[0].message.content}, {"role": "user", "content": "What is my cat called?"}]
second = client.chat.completions.create(model="demo", messages=messages, temperature=0, logprobs=True, top_logprobs=3)
check("chat answer", "Biscuit" in second.choices[0].message.content, second.choices[0].message.content)
check("chat finish", second.choices[0].finish_reason == "stop")
check("cached tokens", second.usage.prompt_tokens_details.cached_tokens > 0, second.usage)
content = second.choices[0].logprobs.content
check("logprobs", len(content) > 0 and all(len(c.top_logprobs) == 3 and c.logprob <= 0 for c in content), content)

text, usage, roles = "", None, []
for chunk in client.chat.completions.create(model="demo", messages=messages, temperature=0, stream=True, stream_options={"include_usage": True}):
    if chunk.choices:
        text += chunk.choices[0].delta.content or ""
        roles.append(chunk.choices[0].delta.role)
    if chunk.usage:
        usage = chunk.usage
check("stream equals whole", text == second.choices[0].message.content, text)
check("stream usage", usage is not None and usage.completion_tokens == second.usage.completion_tokens, usage)
check("stream role first", roles[0] == "assistant", roles)

two = client.chat.completions.create(model="demo", messages=messages, n=2, seed=5, temperature=1)
check("n=2", [c.index for c in two.choices] == [0, 1], two)
again = client.chat.completions.create(model="demo", messages=messages, n=2, seed=5, temperature=1)
check("seed repeats", [c.message.content for c in two.choices] == [c.message.content for c in again.choices])
stopped = client.chat.completions.create(model="demo", messages=messages, temperature=0, stop=["Biscuit"])
check("stop string", "Biscuit" not in stopped.choices[0].message.content and stopped.choices[0].finish_reason == "stop", stopped)
short = client.chat.completions.create(model="demo", messages=messages, temperature=0, max_tokens=2)
check("max_tokens", short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 2, short)
done = client.completions.create(model="demo", prompt="Hello", max_tokens=4, temperature=0)
check("completions", done.object == "text_completion" and done.usage.completion_tokens <= 4, done)

raises("unknown model", openai.NotFoundError, "model_not_found", lambda: client.chat.completions.create(model="nope", messages=messages))
raises("too long", openai.BadRequestError, "context_length_exceeded", lambda: client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "word " * 5000}]))


async def concurrent() -> list[str]:
    async with openai.AsyncOpenAI(base_url=sys.argv[1], api_key="none") as aclient:
        calls = [aclient.chat.completions.create(model="demo", messages=[{"role": "user", "content": f"My number is {n}. What is my number?"}], temperature=0) for n in range(10, 26)]
        return [c.choices[0].message.content for c in await asyncio.gather(*calls)]


answers = asyncio.run(concurrent())
check("16 at once, each its own answer", sum(str(n) in a for n, a in zip(range(10, 26), answers)) >= 14, answers)
print(f"{passed} passed, 0 failed")
