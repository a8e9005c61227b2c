#!/usr/bin/env python3
"""The OpenAI form, spoken by the unmodified `openai` package, against the agent's serving half with a real worker.

    python3 openai_client.py BIN MODEL.gguf BERT_FOLDER

TARE_PYTHON names an interpreter that has the package, if this one has not; without it the test is skipped (77).
"""
import base64
import importlib.util
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time

if importlib.util.find_spec("openai") is None:
    other = os.environ.get("TARE_PYTHON")
    if other and os.environ.get("TARE_PYTHON_TRIED") != other:
        os.environ["TARE_PYTHON_TRIED"] = other
        os.execv(other, [other] + sys.argv)
    print("skipped: the Python package openai is missing (TARE_PYTHON names an interpreter that has it)")
    sys.exit(77)

import openai

BIN, MODEL, BERT = sys.argv[1:4]
failures = 0


def check(words, truth, got=""):
    global failures
    print("ok:" if truth else "FAIL:", words, "" if truth else repr(got)[:300])
    failures += not truth


class Server:
    def __init__(self, model):
        self.process = subprocess.Popen([BIN + "/serve_host", model, "plugin=scalar", "threads=1", "sequences=2", "queue=2",
                                         "tell=1"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().split()[0])
        self.lines = []
        threading.Thread(target=self.listen, daemon=True).start()
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0, timeout=60)

    def listen(self):
        for line in self.process.stdout:
            self.lines.append(line)

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def ready(self):
        for _ in range(600):
            models = self.client.models.list().data
            if models and getattr(models[0], "context_length", None):
                return models[0]
            time.sleep(0.05)
        raise SystemExit("the worker is not ready in 30 s")

    def close(self):
        self.process.stdin.close()
        return self.process.wait(30)


def raises(words, kind, call, status=None, code=None, param=None, contains=""):
    try:
        got = call()
    except kind as error:
        body = error.body if isinstance(error.body, dict) else {}
        good = ((status is None or error.status_code == status) and (code is None or error.code == code) and
                (param is None or error.param == param) and contains in str(error) and bool(body.get("message")) and
                bool(body.get("type")))
        check(words, good and type(error) is kind, (type(error), str(error)))
        return error
    except Exception as error:  # another one than expected
        check(words, False, (type(error), str(error)))
    else:
        check(words, False, got)
    return None


def completions(c):
    a = c.completions.create(model="default", prompt="Once upon a time", max_tokens=12, temperature=0)
    text = a.choices[0].text
    check("a completion", a.object == "text_completion" and len(text) > 10 and a.choices[0].finish_reason == "length" and
          a.usage.completion_tokens == 12 and a.usage.total_tokens == a.usage.prompt_tokens + 12, a)
    parts = list(c.completions.create(model="default", prompt="Once upon a time", max_tokens=12, temperature=0, stream=True,
                                      stream_options={"include_usage": True}))
    streamed = "".join(p.choices[0].text for p in parts if p.choices)
    check("the same, streamed", streamed == text, (streamed, text))
    check("usage comes last, with no choices", parts[-1].usage.completion_tokens == 12 and not parts[-1].choices and
          all(p.usage is None for p in parts[:-1]), parts[-1])
    check("a stream says once why it ended", [p.choices[0].finish_reason for p in parts if p.choices].count("length") == 1)
    seeded = [c.completions.create(model="default", prompt="The", max_tokens=16, seed=s, temperature=1).choices[0].text
              for s in (7, 7, 8)]
    check("a seed repeats, another one differs", seeded[0] == seeded[1] != seeded[2], seeded)
    stop = text[4:7]
    s = c.completions.create(model="default", prompt="Once upon a time", max_tokens=12, temperature=0, stop=[stop, "\0never"[1:]])
    check("a stop string ends before itself", s.choices[0].text == text[:text.index(stop)] and s.choices[0].finish_reason == "stop", s)
    default = c.completions.create(model="default", prompt="The", temperature=0)
    check("16 tokens without max_tokens", default.usage.completion_tokens <= 16, default)
    tokens = c.completions.create(model="default", prompt=[5, 6, 7], max_tokens=3, temperature=0)
    check("a prompt of tokens", tokens.usage.prompt_tokens == 3, tokens)
    harmless = c.completions.create(model="default", prompt="x", max_tokens=1, user="me", presence_penalty=0,
                                    extra_body={"unknown_field": {"a": 1}, "safety_identifier": "x"})
    check("unknown fields do no harm", harmless.usage.completion_tokens == 1, harmless)
    raw = c.completions.with_raw_response.create(model="default", prompt="x", max_tokens=1)
    check("the answer is JSON by its header", raw.headers["content-type"] == "application/json")
    return text


def logprobs(c, text):
    a = c.completions.create(model="default", prompt="Once upon a time", max_tokens=12, temperature=0, logprobs=3)
    got = a.choices[0].logprobs
    check("log probabilities of a completion", len(got.tokens) == len(got.token_logprobs) == len(got.top_logprobs) ==
          len(got.text_offset) == 12, got)
    check("the chosen token is among its alternatives, and the likeliest",
          all(t in top and abs(top[t] - l) < 1e-6 and l >= max(top.values()) - 1e-6 and 3 <= len(top) <= 4 and l <= 0
              for t, l, top in zip(got.tokens, got.token_logprobs, got.top_logprobs)), got)
    check("tokens make the text", "".join(got.tokens) == text or "bytes:" in "".join(got.tokens), got.tokens)
    check("offsets go on from the prompt", got.text_offset[0] == len("Once upon a time") and
          got.text_offset[1] == got.text_offset[0] + len(got.tokens[0]), got.text_offset)
    parts = list(c.completions.create(model="default", prompt="Once upon a time", max_tokens=12, temperature=0, logprobs=0,
                                      stream=True))
    offsets = [o for p in parts if p.choices[0].logprobs for o in p.choices[0].logprobs.text_offset]
    check("the same offsets, streamed", offsets == got.text_offset, offsets)
    messages = [{"role": "user", "content": "Hello"}]
    a = c.chat.completions.create(model="default", messages=messages, max_tokens=6, temperature=0, logprobs=True, top_logprobs=2)
    content = a.choices[0].logprobs.content
    check("log probabilities of a chat", len(content) == 6 and all(
        t.logprob <= 0 and bytes(t.bytes).decode("utf-8", "replace").replace("\ufffd", "") in t.token + "\ufffd" and
        len(t.top_logprobs) == 2 and t.top_logprobs[0].logprob >= t.top_logprobs[1].logprob and
        math.exp(t.top_logprobs[0].logprob) <= 1 for t in content), content)
    check("bytes make the text", b"".join(bytes(t.bytes) for t in content).decode("utf-8", "replace").strip("\ufffd ") ==
          a.choices[0].message.content.strip("\ufffd "), (content, a.choices[0].message.content))
    parts = list(c.chat.completions.create(model="default", messages=messages, max_tokens=6, temperature=0, logprobs=True,
                                           stream=True))
    streamed = [t for p in parts if p.choices and p.choices[0].logprobs for t in p.choices[0].logprobs.content]
    check("streamed chat has them too", [t.logprob for t in streamed] == [t.logprob for t in content] and
          all(t.top_logprobs == [] for t in streamed), streamed)


def chats(c):
    messages = [{"role": "system", "content": "You tell stories."},
                {"role": "user", "content": [{"type": "text", "text": "Gr\u00fc\u00dfe, "}, {"type": "text", "text": "\u4f60\u597d!"}]}]
    a = c.chat.completions.create(model="default", messages=messages, max_completion_tokens=10, temperature=0)
    m = a.choices[0].message
    check("a chat", a.object == "chat.completion" and m.role == "assistant" and m.refusal is None and len(m.content) > 0 and
          a.usage.completion_tokens <= 10 and a.id.startswith("chatcmpl-"), a)
    parts = list(c.chat.completions.create(model="default", messages=messages, max_completion_tokens=10, temperature=0,
                                           stream=True, stream_options={"include_usage": True}))
    check("the same, streamed", "".join(p.choices[0].delta.content or "" for p in parts if p.choices) == m.content, parts)
    check("the first says the role, the last usage", parts[0].choices[0].delta.role == "assistant" and
          parts[-1].usage.total_tokens == a.usage.total_tokens, parts[-1])
    with c.chat.completions.stream(model="default", messages=messages, max_completion_tokens=10, temperature=0) as stream:
        told = "".join(e.delta for e in stream if e.type == "content.delta")
        check("the package's own accumulator", told == m.content and
              stream.current_completion_snapshot.choices[0].message.content == m.content, told)
    developer = c.chat.completions.create(model="default", messages=[{"role": "developer", "content": "Be brief."},
                                          {"role": "user", "content": "x"}, {"role": "assistant", "content": None},
                                          {"role": "user", "content": "y"}], max_tokens=2)
    check("developer and empty assistant messages", developer.usage.completion_tokens <= 2, developer)


def errors(c, server):
    bad = openai.BadRequestError
    raises("400: temperature", bad, lambda: c.completions.create(model="default", prompt="x", temperature=-1), 400, None, "temperature")
    raises("400: n", bad, lambda: c.completions.create(model="default", prompt="x", n=2), 400, None, "n")
    raises("400: no messages", bad, lambda: c.chat.completions.create(model="default", messages=[]), 400, None, "messages")
    raises("400: tools", bad, lambda: c.chat.completions.create(model="default", messages=[{"role": "user", "content": "x"}], tools=[
        {"type": "function", "function": {"name": "f", "parameters": {}}}]), 400, None, "tools", "not supported")
    raises("400: JSON mode", bad, lambda: c.chat.completions.create(model="default", messages=[{"role": "user", "content": "x"}],
                                                                     response_format={"type": "json_object"}), 400, None, "response_format")
    raises("400: penalties", bad, lambda: c.completions.create(model="default", prompt="x", frequency_penalty=1), 400, None, "frequency_penalty")
    raises("400: the context", bad, lambda: c.completions.create(model="default", prompt="word " * 600, max_tokens=2), 400,
           "context_length_exceeded", None, "the context holds")
    raises("400: a token that is none", bad, lambda: c.completions.create(model="default", prompt=[2**30], max_tokens=2), 400, None, None, "vocabulary")
    raises("404: another model", openai.NotFoundError, lambda: c.completions.create(model="gpt-9", prompt="x"), 404, "model_not_found")
    raises("404: another model, by name", openai.NotFoundError, lambda: c.models.retrieve("gpt-9"), 404, "model_not_found")
    raises("404: another address", openai.NotFoundError, lambda: c.images.generate(model="default", prompt="x"), 404)
    raises("413: a body over 1 MiB", openai.APIStatusError, lambda: c.completions.create(model="default", prompt="x" * 1100000), 413)
    long = dict(model="default", prompt="Once", max_tokens=400, temperature=1, seed=1, stream=True)
    streams = [c.completions.create(**long) for _ in range(2)]
    waiting = [threading.Thread(target=lambda: list(c.completions.create(**dict(long, max_tokens=2)))) for _ in range(2)]
    for t in waiting:
        t.start()
    error = None
    for _ in range(40):  # until both wait
        time.sleep(0.05)
        try:
            c.with_options(timeout=2).completions.create(model="default", prompt="x", max_tokens=1)
        except openai.RateLimitError as e:
            error = e
            break
        except openai.APITimeoutError:
            break
    check("429: a full queue says when to come again", error is not None and error.status_code == 429 and
          int(error.response.headers["retry-after"]) > 0 and error.code == "rate_limit_exceeded", error)
    for s in streams:
        s.close()
    for t in waiting:
        t.join()
    check("closed streams made place", c.completions.create(model="default", prompt="x", max_tokens=1).usage.completion_tokens == 1)


def cancels(c, server):
    before = len(server.lines)
    stream = c.completions.create(model="default", prompt="Once upon", max_tokens=450, temperature=1, seed=3, stream=True)
    for _ in range(5):
        next(stream)
    stream.close()
    started = time.time()
    c.completions.create(model="default", prompt="x", max_tokens=1)
    check("a stream left in the middle does not hold up the next", time.time() - started < 5)
    time.sleep(0.3)
    made = [int(line.split()[2]) for line in server.lines[before:]]
    check("and is not worked on any more", made and max(made) == 1, made)  # one of 450 would be told as finished


def embeddings(server, vectors):
    c = server.client
    model = server.ready()
    check("the encoder says what it can", model.capabilities == {"completions": False, "chat": False, "embeddings": True} and
          model.embedding_length == len(vectors["data"][0]["embedding"]), model)
    texts = ["hello world", "Gr\u00fc\u00dfe \u4f60\u597d", "x"]
    got = c.embeddings.create(model=model.id, input=texts)  # the package asks for base64
    cosine = [sum(a * b for a, b in zip(g.embedding, v["embedding"])) for g, v in zip(got.data, vectors["data"])]
    check("three vectors, as tare embed makes them", len(got.data) == 3 and [g.index for g in got.data] == [0, 1, 2] and
          min(cosine) > 0.99999, cosine)
    check("their usage", got.usage.prompt_tokens == got.usage.total_tokens == sum(v["tokens"] for v in vectors["data"]), got.usage)
    plain = c.embeddings.create(model="default", input=texts[1], encoding_format="float")
    check("the same as numbers", max(abs(a - b) for a, b in zip(plain.data[0].embedding, got.data[1].embedding)) < 1e-6)
    raw = c.embeddings.with_raw_response.create(model="default", input="x", encoding_format="base64")
    coded = json.loads(raw.text)["data"][0]["embedding"]
    check("base64 is little-endian floats", len(base64.b64decode(coded)) == 4 * model.embedding_length and
          abs(struct.unpack("<f", base64.b64decode(coded)[:4])[0] - got.data[2].embedding[0]) < 1e-6)
    cut = c.embeddings.create(model="default", input=texts[0], dimensions=8).data[0].embedding
    norm = math.sqrt(sum(x * x for x in got.data[0].embedding[:8]))
    check("dimensions cut and normalise", len(cut) == 8 and abs(sum(x * x for x in cut) - 1) < 1e-5 and
          all(abs(a - b / norm) < 1e-5 for a, b in zip(cut, got.data[0].embedding)), cut)
    check("token lists", len(c.embeddings.create(model="default", input=[[2, 5, 3], [2, 6, 3]]).data) == 2)
    many = c.embeddings.create(model="default", input=["word %d" % i for i in range(300)])
    check("300 inputs at once", [d.index for d in many.data] == list(range(300)))
    bad = openai.BadRequestError
    raises("400: an empty input", bad, lambda: c.embeddings.create(model="default", input=""), 400, None, "input")
    raises("400: too many dimensions", bad, lambda: c.embeddings.create(model="default", input="x", dimensions=100000), 400, None, "dimensions")
    raises("400: a text longer than the context", bad, lambda: c.embeddings.create(model="default", input="word " * 2000), 400,
           "context_length_exceeded")
    raises("400: an encoder does not answer", bad, lambda: c.completions.create(model="default", prompt="x"), 400, None, None, "embeddings")
    raises("400: nor chat", bad, lambda: c.chat.completions.create(model="default", messages=[{"role": "user", "content": "x"}]), 400)


TEMPLATES = {  # what a model may bring
    "thinks": "{{ messages[0].content }}{{ ' <think>' * 3 if enable_thinking | default(true) else '' }}{{ extra.deep[0] if extra is defined }}",
    "good": "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
    "strict": "{% if messages[0].role == 'system' %}{{ raise_exception('This model takes no system message') }}{% endif %}{{ messages[0].content }}",
    "beyond": "{% include 'other' %}",
    "faulty": "{{ messages[0].content.nothing.here }}",
}


def with_template(folder, source, template):
    """A copy of a Hugging Face folder with this chat template, imported."""
    copy, out = tempfile.mkdtemp(dir=folder), tempfile.mktemp(".gguf", dir=folder)
    for name in os.listdir(source):
        if not name.startswith("reference"):
            os.symlink(os.path.join(os.path.abspath(source), name), os.path.join(copy, name))
    with open(copy + "/chat_template.jinja", "w", encoding="utf-8") as f:
        f.write(template)
    subprocess.run([BIN + "/tare", "import", copy, "-o", out, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    return out


def templates(server, folder, source):
    c = server.client
    user, system = {"role": "user", "content": " Hello "}, {"role": "system", "content": "Be brief."}
    for name, template in TEMPLATES.items():
        before = c.models.list().data[0].id
        server.say("model " + with_template(folder, source, template))
        while c.models.list().data[0].id == before:
            time.sleep(0.05)
        model = server.ready()
        chat = lambda messages, **more: c.chat.completions.create(model="default", messages=messages, max_tokens=2, **more)
        if name == "good":
            a = chat([system, user])
            plain = c.completions.create(model="default", prompt="[system] Be brief.\n[user] Hello\n[assistant]", max_tokens=1)
            check("the model's own template makes the prompt", a.usage.prompt_tokens == plain.usage.prompt_tokens, (a.usage, plain.usage))
        elif name == "thinks":
            used = [chat([user], extra_body={"chat_template_kwargs": k} if k else None).usage.prompt_tokens
                    for k in (None, {"enable_thinking": False}, {"enable_thinking": False, "extra": {"deep": ["many words more"]}})]
            check("variables of the template", used[0] > used[1] < used[2], used)
            raises("400: messages are no variable", openai.BadRequestError, lambda: chat([user], extra_body={
                "chat_template_kwargs": {"messages": []}}), 400, None, None, "not for the caller")
        elif name == "strict":
            raises("400: the template refuses the conversation, in its own words", openai.BadRequestError, lambda: chat([system, user]),
                   400, None, None, "This model takes no system message")
            raises("400: in a stream too", openai.BadRequestError, lambda: chat([system, user], stream=True), 400, None, None, "no system message")
            check("and takes another one", chat([user]).usage.completion_tokens > 0)
        else:
            check("a template that cannot be used is seen: " + name, model.capabilities["chat"] is (name == "faulty"), model)
            raises("500: " + name, openai.InternalServerError, lambda: chat([user]), 500, None, None, "chat template, line 1: ")
            check("completions go on", c.completions.create(model="default", prompt="x", max_tokens=1).usage.completion_tokens == 1)


def main():
    server = Server("none")
    c = server.client
    check("no model, no list", c.models.list().data == [])
    error = raises("503: no model", openai.InternalServerError, lambda: c.completions.create(model="default", prompt="x"), 503)
    check("with a time to come again", error is not None and int(error.response.headers["retry-after"]) > 0)
    server.say("model " + MODEL)
    model = server.ready()
    check("the decoder says what it can", model.capabilities == {"completions": True, "chat": True, "embeddings": True} and
          model.context_length == 512 and model.owned_by == "tare", model)
    check("a model by name", c.models.retrieve(model.id).id == model.id)
    text = completions(c)
    logprobs(c, text)
    chats(c)
    e = c.embeddings.create(model="default", input=["a cat", "a cat", "stocks"]).data
    check("a decoder embeds too", abs(sum(x * x for x in e[0].embedding) - 1) < 1e-4 and e[0].embedding == e[1].embedding)
    errors(c, server)
    cancels(c, server)
    with tempfile.TemporaryDirectory() as folder:
        bert = folder + "/bert.gguf"
        subprocess.run([BIN + "/tare", "import", BERT, "-o", bert, "--quiet"], check=True, stdout=subprocess.DEVNULL)
        told = subprocess.run([BIN + "/tare", "embed", bert, "hello world", "Gr\u00fc\u00dfe \u4f60\u597d", "x", "--json", "--plugin", "scalar"],
                              check=True, capture_output=True, text=True)
        server.say("model " + bert)
        while c.models.list().data[0].id == model.id:
            time.sleep(0.05)
        embeddings(server, json.loads(told.stdout))
        templates(server, folder, os.path.dirname(BERT) + "/llama3")
    check("the server ends in order", server.close() == 0)
    print(f"openai {openai.__version__}, Python {sys.version.split()[0]}: {failures} failures")
    return failures > 0


sys.exit(main())
