"""Celery with threads. celery_peer.py worker|produce REDIS_URL UPSTREAM_URL JOBS"""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
from urllib.parse import urlsplit

import harness
from celery import Celery
from redis import Redis


def main(role: str, redis_url: str, url: str, jobs: int) -> None:
    app = Celery(broker=redis_url, backend=redis_url)
    app.conf.worker_hijack_root_logger = False
    app.conf.broker_connection_retry_on_startup = True
    redis, place = Redis.from_url(redis_url), urlsplit(url)

    @app.task(name="generate")
    def generate(prompt: str, channel: str) -> str:
        text = ""
        connection = http.client.HTTPConnection(place.netloc)
        connection.request("POST", place.path, json.dumps({"query": prompt, "model": "gpt-4o"}))
        for line in connection.getresponse():
            if line.startswith(b"data: "):
                frame = json.loads(line[6:])
                if frame["event"] == "text-chunk":
                    chunk = frame["data"]["text"]
                    text += chunk
                    redis.publish(harness.CHANNELS + channel, chunk)
        connection.close()
        return text

    async def enqueue(prompt: str, channel: str) -> None:
        generate.delay(prompt, channel)  # Celery has no other call

    if role == "worker":
        pool = ["--pool", "threads", "--concurrency", str(jobs)]
        app.worker_main(["worker", *pool, "--loglevel", "ERROR", "--without-mingle"])
    else:
        asyncio.run(harness.produce(enqueue))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
