#!/usr/bin/env python3
"""serving_load.py PORT CLIENTS SECONDS [--tokens N] [--words N] [--seed S]: one JSON line.

CLIENTS connections ask a server of the OpenAI form on loopback, each one request behind the other, streamed, at
temperature 0, every prompt another. Told: tokens of answers per second by the server's own usage, requests, and the
time to the first token (median, 99th percentile). Requests that are under way at the end count by their time share.
Events are not parsed while they come, so that the client costs the server little. Standard library only.
"""
import argparse
import asyncio
import json
import random
import time

WORDS = ("the a little big old red girl boy dog house sea river tree sun rain was went saw said found made "
         "happy sad very one day and but then when with under over near from to of in on").split()


async def ask(port, prompt, tokens):
    """Seconds to the first token, tokens of the answer; the server must say both by its events."""
    body = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True,
                       "stream_options": {"include_usage": True}}).encode()
    start = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(body) + body)
    raw, first = b"", None
    while chunk := await reader.read(65536):
        raw += chunk
        if first is None and b"data: {" in raw:
            first = time.monotonic() - start
    writer.close()
    at = raw.rfind(b'"completion_tokens":')
    if first is None or at < 0:
        raise RuntimeError(raw[:300].decode(errors="replace"))
    return first, int(raw[at + 20:at + 30].lstrip().split(b",")[0].split(b"}")[0])


async def client(options, rng, until, results):
    while (begin := time.monotonic()) < until:
        prompt = " ".join(rng.choice(WORDS) for _ in range(options.words))
        first, tokens = await ask(options.port, prompt, options.tokens)
        end = time.monotonic()
        share = 1.0 if end <= until else (until - begin) / (end - begin)
        results.append((first, tokens * share))


async def load(options):
    rng, results = random.Random(options.seed), []
    await ask(options.port, "once", 4)
    until = time.monotonic() + options.seconds
    await asyncio.gather(*(client(options, random.Random(rng.random()), until, results)
                           for _ in range(options.clients)))
    first = sorted(r[0] for r in results)
    return {"clients": options.clients, "requests": len(results),
            "tok_s": round(sum(r[1] for r in results) / options.seconds, 1),
            "ttft_p50_ms": round(first[len(first) // 2] * 1e3, 1),
            "ttft_p99_ms": round(first[min(len(first) - 1, len(first) * 99 // 100)] * 1e3, 1)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("clients", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    print(json.dumps(asyncio.run(load(parser.parse_args()))))


if __name__ == "__main__":
    main()
