"""The official client against a frontend whose only worker is python_worker.py. Usage: python_worker_check.py BASE_URL"""

import sys
import time

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)


def check(name: str, condition: bool, found: object = "") -> None:
    if not condition:
        print(f"FAILED {name}: {found}")
        sys.exit(1)
    print(f"ok python worker: {name}")


deadline = time.monotonic() + 20
while True:
    try:
        answer = client.completions.create(model="demo", prompt="My cat is called Biscuit.", max_tokens=6)
        break
    except openai.APIStatusError as error:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.1)
check("answers with the prompt", answer.choices[0].text.startswith("My cat"), answer.choices[0].text)
check("usage", answer.usage.completion_tokens == 6 and answer.choices[0].finish_reason == "length", answer)
chunks = [chunk.choices[0].text for chunk in client.completions.create(model="demo", prompt="My cat is called Biscuit.", max_tokens=6, stream=True) if chunk.choices]
check("streams", len(chunks) > 3 and "".join(chunks) == answer.choices[0].text, chunks)
stream = client.completions.create(model="demo", prompt="My cat is called Biscuit.", max_tokens=1000, stream=True)
for _, chunk in zip(range(5), stream):
    pass
stream.close()
check("a stream that is left", True)
