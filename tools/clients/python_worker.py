"""An Armature worker in Python, against docs/reference/request-plane.md alone. Its "engine" repeats the prompt, one token every few milliseconds.

Usage: python_worker.py FRONTEND_HOST:PORT TOKEN MODEL FINGERPRINT
"""

import asyncio
import struct
import sys
import uuid

import msgpack

HELLO, WELCOME, REFUSE, OPEN, MESSAGE, TOKENS, CLOSE, PING, PONG, REGISTER = range(1, 11)
STOP, LENGTH = 1, 2
COLUMN = 0x74  # MessagePack extension of typed arrays; its first byte says of what
INT32 = 5


def column(code: int, data: bytes) -> object:
    if code == COLUMN and data[0] == INT32:
        return list(struct.unpack(f"<{(len(data) - 1) // 4}i", data[1:]))
    return None if code == 0 else msgpack.ExtType(code, data)


class Worker:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, model: str, fingerprint: str) -> None:
        self.reader, self.writer, self.model, self.fingerprint = reader, writer, model, fingerprint
        self.running: dict[int, asyncio.Task] = {}
        self.cancelled = 0

    def send(self, kind: int, stream: int, body: bytes = b"") -> None:
        self.writer.write(struct.pack("<IBI", 5 + len(body), kind, stream) + body)

    def send_map(self, kind: int, stream: int, value: dict) -> None:
        self.send(kind, stream, msgpack.packb(value))

    async def frame(self) -> tuple[int, int, bytes]:
        length, kind, stream = struct.unpack("<IBI", await self.reader.readexactly(9))
        return kind, stream, await self.reader.readexactly(length - 5)

    def record(self) -> dict:
        host, port = self.writer.get_extra_info("sockname")[:2]
        return {
            "instanceId": f"python/0@{uuid.uuid4().hex[:8]}", "model": self.model, "pool": "python", "index": 0, "dpRank": 0, "role": "both",
            "address": f"tcp://{host}:{port}/echo", "engine": "python", "hardware": "default", "costPerHour": 1, "taints": [], "blockSize": 16,
            "totalBlocks": 1024, "maxModelTokens": 2048, "maxBatchedTokens": 2048, "firstToken": "decode", "modelFingerprint": self.fingerprint,
            "kvEvents": False, "layoutFingerprint": "", "agentMetadata": b"", "protocol": 1,
        }

    async def generate(self, stream: int, request: dict) -> None:
        prompt, limit = request["tokenIds"], request["stop"]["maxTokens"]
        for i in range(limit):
            finish = LENGTH if i == limit - 1 else 0
            self.send(TOKENS, stream, struct.pack("<IBBHiB", 1, 0, 0, 0, prompt[i % len(prompt)], finish))
            await self.writer.drain()
            await asyncio.sleep(0.003)
        self.send_map(MESSAGE, stream, {"type": "end", "promptTokens": len(prompt), "cachedTokens": 0, "outputTokens": limit, "eventId": 0})
        self.send(CLOSE, stream)

    def opened(self, stream: int, body: bytes) -> None:
        opening = msgpack.unpackb(body, ext_hook=column)
        if opening["method"] != "generate":
            self.send_map(CLOSE, stream, {"code": "SERVING_METHOD_UNKNOWN", "message": f"no method {opening['method']}"})
            return
        task = self.running[stream] = asyncio.ensure_future(self.generate(stream, opening["message"]))
        task.add_done_callback(lambda _: self.running.pop(stream, None))

    def closed(self, stream: int) -> None:
        task = self.running.get(stream)
        if task is not None:  # the caller has had enough
            task.cancel()
            self.cancelled += 1
            self.send(CLOSE, stream)
            print(f"cancelled {self.cancelled}", flush=True)

    async def serve(self, token: str) -> None:
        self.send_map(HELLO, 0, {"protocol": 1, "newest": 1, "node": uuid.uuid4().hex, "address": "", "token": token})
        kind, _, body = await self.frame()
        if kind != WELCOME:
            sys.exit(f"refused: {msgpack.unpackb(body)}")
        record = self.record()
        self.send_map(REGISTER, 0, {"key": f"workers/{self.model}/{record['instanceId']}", "value": record})
        print("registered", flush=True)
        while True:
            kind, stream, body = await self.frame()
            if kind == OPEN:
                self.opened(stream, body)
            elif kind == CLOSE:
                self.closed(stream)
            elif kind == PING:
                self.send(PONG, 0)


async def main(place: str, token: str, model: str, fingerprint: str) -> None:
    host, port = place.rsplit(":", 1)
    await Worker(*await asyncio.open_connection(host, int(port)), model, fingerprint).serve(token)


asyncio.run(main(*sys.argv[1:]))
