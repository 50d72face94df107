"""One call with an official Python SDK, as its documentation shows it: defaults, a key in its own variable, and a base URL."""
import os
import sys

if sys.argv[1] == "anthropic":
    import anthropic
    client = anthropic.Anthropic(base_url=os.environ["BASE"])
    answer = client.messages.create(model="claude", max_tokens=10, messages=[{"role": "user", "content": "hello"}])
    print(answer.content[0].text)
else:
    import openai
    client = openai.OpenAI(base_url=os.environ["BASE"] + "/v1")
    if sys.argv[1] == "openai-chat":
        answer = client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "hello"}])
        print(answer.choices[0].message.content)
    else:
        print(client.responses.create(model="gpt", input="hello").output_text)
