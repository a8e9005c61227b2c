#!/usr/bin/env python3
"""soak.py BIN MODEL [--seconds S] [--clients N] [--seed S] [key=value...]: many clients at once, none sees another.

Requests are drawn from a seeded table: short and long prompts, often with a shared beginning, streamed or not, at
temperature 0, with log probabilities. Each is first answered alone; under load every answer must be the same text
with the same log probabilities. One in a hundred hangs up in the middle of a stream. At the end the worker is the
one that began, its memory and its files have not grown, and it ends by itself (a sanitizer then says what leaked).

Exact answers under load need sums in one order whatever else a step computes: scalar has it, and vnni for weights
in blocks, so the model is made Q8_0 first. BIN: the folder of tare and serve_host. Standard library only. Exit status 0: all the same.
"""
import argparse
import asyncio
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time

WORDS = ("the a little big old red girl boy dog house sea river tree sun rain was went saw said found made "
         "happy sad very one day and but then when with under over near from to of in on").split()


def make_requests(rng, count):
    openings = [" ".join(rng.choice(WORDS) for _ in range(n)) for n in (12, 40, 70)]
    requests = []
    for _ in range(count):
        opening = rng.choice(openings) if rng.random() < 0.7 else ""
        tail = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 30)))
        requests.append({"prompt": (opening + " " + tail).strip(), "max_tokens": rng.randint(2, 24),
                         "temperature": 0, "logprobs": 1, "stream": rng.random() < 0.5})
    return requests


async def post(port, body, cut=None):
    """The answer as (status, text, log probabilities, cached tokens); cut: hang up after so many events."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        body = dict(body)
        if body["stream"]:
            body["stream_options"] = {"include_usage": True}
        data = json.dumps(body).encode()
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                     b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        await writer.drain()
        if cut is not None:
            for _ in range(cut):
                if not await reader.readline():
                    break
            return None
        raw = await reader.read()
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            pass
    head, _, rest = raw.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    if b"chunked" in head.lower():
        rest = unchunk(rest)
    if status != 200:
        return status, rest.decode(), None, 0
    if not body["stream"]:
        answer = json.loads(rest)
        choice = answer["choices"][0]
        return status, choice["text"], choice["logprobs"]["token_logprobs"], cached_of(answer)
    text, logprobs, cached, done = "", [], 0, False
    for line in rest.split(b"\n"):
        if line == b"data: [DONE]":
            done = True
        elif line.startswith(b"data: "):
            event = json.loads(line[6:])
            if "error" in event:
                return 500, line.decode(), None, 0
            if event.get("usage"):
                cached = cached_of(event)
            for choice in event["choices"]:
                text += choice["text"]
                if choice["logprobs"]:
                    logprobs += choice["logprobs"]["token_logprobs"]
    return (status if done else 0), text, logprobs, cached


def cached_of(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def unchunk(data):
    out = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        n = int(size or b"0", 16)
        if n == 0:
            break
        out, data = out + data[:n], data[n + 2:]
    return out


def look(pid):
    with open(f"/proc/{pid}/status") as f:
        rss = next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))
    return rss, len(os.listdir(f"/proc/{pid}/fd"))


class Soak:
    def __init__(self, port, requests, expected, rng):
        self.port, self.requests, self.expected, self.rng = port, requests, expected, rng
        self.same = self.wrong = self.cut = self.busy = self.cached = 0

    async def client(self, until):
        while time.monotonic() < until:
            i = self.rng.randrange(len(self.requests))
            if self.rng.random() < 0.01:
                await post(self.port, dict(self.requests[i], stream=True, max_tokens=64), self.rng.randint(0, 12))
                self.cut += 1
                continue
            status, text, logprobs, cached = await post(self.port, self.requests[i])
            if status == 429:
                self.busy += 1
                await asyncio.sleep(0.05)
            elif status == 200 and (text, logprobs) == self.expected[i]:
                self.same += 1
                self.cached += cached
            else:
                self.wrong += 1
                print(f"request {i}: status {status}, expected {self.expected[i]}, found {(text, logprobs)}")


async def soak(host, port, worker, options):
    rng = random.Random(options.seed)
    requests = make_requests(rng, options.requests)
    expected, reused = [], 0
    for request in requests:
        status, text, logprobs, cached = await post(port, request)
        assert status == 200, (status, text)
        expected.append((text, logprobs))
    for i in rng.sample(range(len(requests)), min(20, len(requests))):  # the same, begun in the cache
        status, text, logprobs, cached = await post(port, requests[i])
        assert (text, logprobs) == expected[i], f"request {i} differs when its prompt is in the cache"
        reused += cached > 0
    run = Soak(port, requests, expected, rng)
    start, marks = time.monotonic(), []
    until = start + options.seconds
    clients = [asyncio.create_task(run.client(until)) for _ in range(options.clients)]
    while time.monotonic() < until:
        await asyncio.sleep(min(options.seconds / 10, until - time.monotonic() + 0.01))
        marks.append((look(host), look(worker)))
    await asyncio.gather(*clients)
    await asyncio.sleep(1)
    last = look(host), look(worker)
    print(f"{options.clients} clients, {time.monotonic() - start:.0f} s: {run.same} answers the same as alone, "
          f"{run.wrong} not, {run.cut} hung up, {run.busy} times busy; {run.cached} prompt tokens from the cache, "
          f"{reused} of 20 alone")
    half = marks[len(marks) // 2]
    for name, k in (("agent", 0), ("worker", 1)):
        print(f"{name}: resident KiB {[m[k][0] for m in marks]}, open files {marks[0][k][1]} to {last[k][1]}")
    grown = [last[k][0] - half[k][0] for k in (0, 1)]
    files = [last[k][1] - options.files[k] for k in (0, 1)]
    problems = [text for bad, text in (
        (run.wrong > 0, "answers differ"), (run.same == 0, "nothing was answered"),
        (options.keeps and not (run.cached and reused), "nothing came from the cache"),
        (max(grown) > options.growth, f"resident memory grew by {grown} KiB in the second half"),
        (max(files) > 0, f"{files} more open files")) if bad]
    for problem in problems:
        print("FAIL:", problem)
    return not problems


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bin")
    parser.add_argument("model")
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--growth", type=int, default=4096, help="KiB that the second half may add")
    options, settings = parser.parse_known_args()
    has_vnni = platform.machine() == "x86_64" and "avx2" in open("/proc/cpuinfo").read()
    settings = ["threads=2", "sequences=16", "context=256", "queue=128", "keep=8"] + settings
    options.keeps = "keep=0" not in settings
    os.environ.setdefault("ASAN_OPTIONS", "quarantine_size_mb=4")
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "q8_0.gguf")
        subprocess.run([os.path.join(options.bin, "tare"), "quantize", options.model, "-o", model, "--type", "Q8_0",
                        "--quiet"], check=True, stdout=subprocess.DEVNULL)
        program = os.path.join(options.bin, "serve_host")
        ok = run_all(program, model, ["plugin=vnni"] + settings, options) if has_vnni else None
        if ok is None:  # not here, or too slow to pass its check on a busy machine
            ok = run_all(program, model, ["plugin=scalar"] + settings, options)
    sys.exit(0 if ok else 1)


def run_all(program, model, settings, options):
    host = subprocess.Popen([program, model] + settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)
    line = host.stdout.readline().split()
    if len(line) != 2:
        print("the host does not start:", host.stderr.read())
        return None
    port, worker = map(int, line)
    options.files = look(host.pid)[1], look(worker)[1]
    if "libasan" in open(f"/proc/{worker}/maps").read():  # it keeps what is freed for a while
        options.growth *= 8
    try:
        ok = asyncio.run(soak(host.pid, port, worker, options))
    except (AssertionError, OSError) as problem:
        print("FAIL:", problem)
        ok = False
    out, err = host.communicate()
    print(out.strip())
    noise = [line for line in err.splitlines() if "ERROR: " in line or "SUMMARY" in line or "runtime error" in line]
    ok = ok and host.returncode == 0 and not noise
    if not ok:
        print(err[-4000:])
    return ok


if __name__ == "__main__":
    main()
