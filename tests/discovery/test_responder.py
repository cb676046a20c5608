"""The responder's thread by itself: what it leaves behind."""

import os
import queue
import random
import threading
import time

from meshd.discovery.presence import Presence
from meshd.discovery.responder import Responder
from meshd.discovery.sightings import Heard, Lost, Opening

PRESENCE = Presence(
    interface="lo",
    index=1,
    ipv4="127.0.0.1",
    ipv6=False,
    hosts=("127.0.0.1",),
    loopback=True,
    txt=(("v", b"1"),),
    port=7001,
    generation=0,
)
LIMIT_S = 20


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_goodbye_that_is_cut_short_leaves_no_socket_open() -> None:
    told: queue.Queue[Heard | Lost | Opening] = queue.Queue()
    responder = Responder(told.put, random.Random(1), goodbye_limit_s=0.0)
    before = open_files()
    thread = threading.Thread(target=responder.run)
    thread.start()
    try:
        responder.show((PRESENCE,))
        while told.get(timeout=LIMIT_S) != Opening("lo", None):
            pass
        assert open_files() > before
        responder.show(())
        deadline = time.monotonic() + LIMIT_S
        while open_files() > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert open_files() == before
    finally:
        responder.stop()
        thread.join(LIMIT_S)
    assert not thread.is_alive()
