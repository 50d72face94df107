"""Streams by the official Python SDKs, as their documentation shows them. All are stopped in the middle of an event: each SDK has to raise an
error of its own that says why, and not a failure to read what came, nor an end in order."""
import os
import traceback
from concurrent.futures import ThreadPoolExecutor

import anthropic
import openai

BASE, WORDS = os.environ["BASE"], ("HostNotAllowed", "Add to rules of the policy document")
KEY = os.environ["MODELS_API_KEY"]
# It would be sent beside the other.
del os.environ["ANTHROPIC_API_KEY"]
ASKED = [{"role": "user", "content": "hello"}]


def messages():
    client = anthropic.Anthropic(base_url=BASE + "/anthropic", auth_token=KEY)
    with client.messages.stream(model="half", max_tokens=10, messages=ASKED) as stream:
        yield from stream.text_stream


def responses():
    client = openai.OpenAI(base_url=BASE + "/openai/v1", api_key=KEY)
    yield from client.responses.create(model="half", input="hello", stream=True)


def chat():
    client = openai.OpenAI(base_url=BASE + "/openai/v1", api_key=KEY)
    yield from client.chat.completions.create(model="half", messages=ASKED, stream=True)


def stopped(case):
    name, stream, error = case
    came = 0
    try:
        for _ in stream():
            came += 1
        return f"FAIL {name}: it ended in order"
    except error as raised:
        told = all(word in str(raised) for word in WORDS)
        return f"PASS {name}" if told and came else f"FAIL {name}: after {came} pieces: {type(raised).__name__}: {raised}"
    except Exception:
        return f"FAIL {name}: {traceback.format_exc().strip().splitlines()[-1]}"


CASES = [
    ("Anthropic messages", messages, anthropic.APIError),
    ("OpenAI responses", responses, openai.APIError),
    ("OpenAI chat completions", chat, openai.APIError),
]
with ThreadPoolExecutor(len(CASES)) as pool:
    for verdict in pool.map(stopped, CASES):
        print(verdict, flush=True)
