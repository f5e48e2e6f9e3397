"""A switch in user space between the hosts of `npm run test:hosts`: forwards Ethernet frames between veth ends, with delay, loss and cuts per pair of hosts.

The kernel's own netem is a module that many machines lack. Usage: switch.py NAME=INTERFACE ... ; commands are JSON lines on standard input:
{"delayMs": 5} every pair · {"loss": 0.01} · {"cut": ["a", "b"]} nothing passes between these two · {"heal": true} · {"stats": true}
Each is answered by one line: settings, frames by outcome, bytes that passed per pair ("a b", in the order of the alphabet).
"""

import heapq
import json
import random
import select
import socket
import sys
import time

ETH_P_ALL = 3
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
OUT_OF_ORDER_GUARD = 1e-9
MAX_WAITING = 20_000  # frames; beyond it the switch drops, as switches do

ports = {}
for argument in sys.argv[1:]:
    name, interface = argument.split("=")
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    sock.bind((interface, 0))
    sock.setblocking(False)
    ports[sock] = name
by_name = {name: sock for sock, name in ports.items()}

delay_s, loss = 0.0, 0.0
cuts: set[frozenset[str]] = set()
home: dict[bytes, str] = {}
waiting: list[tuple[float, int, str, bytes]] = []
sequence = 0
stats = {"forwarded": 0, "lost": 0, "cut": 0, "full": 0}
passed_bytes: dict[str, int] = {}
rng = random.Random(1)


def send(to: str, frame: bytes) -> None:
    try:
        by_name[to].send(frame)
        stats["forwarded"] += 1
    except OSError:
        stats["full"] += 1


def forward(source: str, to: str, frame: bytes) -> None:
    global sequence
    if frozenset((source, to)) in cuts:
        stats["cut"] += 1
    elif loss > 0 and rng.random() < loss:
        stats["lost"] += 1
    elif len(waiting) >= MAX_WAITING:
        stats["full"] += 1
    else:
        pair = " ".join(sorted((source, to)))
        passed_bytes[pair] = passed_bytes.get(pair, 0) + len(frame)
        if delay_s == 0 and not waiting:
            send(to, frame)
            return
        sequence += 1
        heapq.heappush(waiting, (time.monotonic() + delay_s, sequence, to, frame))


def receive(sock: socket.socket) -> None:
    source = ports[sock]
    for _ in range(256):
        try:
            frame = sock.recv(65_600)
        except BlockingIOError:
            return
        home[frame[6:12]] = source
        target = home.get(frame[0:6])
        if target == source:
            continue
        for to in (target,) if target is not None else by_name:
            if to != source:
                forward(source, to, frame)


def command(line: str) -> None:
    global delay_s, loss
    order = json.loads(line)
    delay_s = order.get("delayMs", delay_s * 1000) / 1000
    loss = order.get("loss", loss)
    if "cut" in order:
        cuts.add(frozenset(order["cut"]))
    if order.get("heal"):
        cuts.clear()
    print(json.dumps({"delayMs": delay_s * 1000, "loss": loss, "cuts": [sorted(cut) for cut in cuts], "bytes": passed_bytes, **stats}), flush=True)


print("switching", flush=True)
while True:
    until = None if not waiting else max(0.0, waiting[0][0] - time.monotonic())
    for ready in select.select([sys.stdin, *ports], [], [], until)[0]:
        if ready is not sys.stdin:
            receive(ready)
            continue
        text = sys.stdin.readline()
        if text == "":
            sys.exit(0)
        command(text)
    now = time.monotonic() + OUT_OF_ORDER_GUARD
    while waiting and waiting[0][0] <= now:
        _, _, to, frame = heapq.heappop(waiting)
        send(to, frame)
