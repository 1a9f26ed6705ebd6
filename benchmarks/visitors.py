"""Speed of `wm-jax play` with several visitors at once, compared with one visitor.

    python benchmarks/visitors.py [BUNDLE…] [--visitors N] [--seconds S]

C acts. Each visitor asks for the next step as soon as an answer arrives; the page asks at the task's own speed.
"""

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import Positional
from websockets import Origin
from websockets.sync.client import connect

from wm_jax.pretrained import bundles

BUNDLES = tuple(bundles().values())


def rates(port: int, visitors: int, seconds: float) -> list[float]:
    """Steps per second of each visitor, with this many at once."""
    found, ready = [0.0] * visitors, threading.Barrier(visitors)

    def play(number: int) -> None:
        with connect(f"ws://127.0.0.1:{port}/actual", origin=Origin(f"http://127.0.0.1:{port}")) as visitor:

            def ask(**message: int | None) -> dict[str, Any]:
                visitor.send(json.dumps(message))
                return json.loads(visitor.recv(timeout=120))

            ask(begin=1_000_000 + number)
            ask(step=None)
            ready.wait()
            begun, steps = time.perf_counter(), 0
            while time.perf_counter() - begun < seconds:
                steps += 1
                if ask(step=None)["over"]:
                    ask(begin=2_000_000 + number)
            found[number] = steps / (time.perf_counter() - begun)

    threads = [threading.Thread(target=play, args=[number]) for number in range(visitors)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def main(bundles: Positional[tuple[Path, ...]] = BUNDLES, visitors: int = 10, seconds: float = 10.0) -> None:
    """Print a line a bundle."""
    for bundle in bundles:
        command = [sys.executable, "-u", "-m", "wm_jax", "play", str(bundle), "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert server.stdout is not None
        try:
            port = next(int(found[1]) for line in server.stdout if (found := re.search(r"127\.0\.0\.1:(\d+)", line)))
            alone, together = rates(port, 1, seconds)[0], rates(port, visitors, seconds)
        finally:
            server.send_signal(2)
            server.wait()
        print(f"{bundle.stem}: {visitors} visitors at once {min(together):.1f} to {max(together):.1f} steps/s each; one "
              f"alone {alone:.1f}; together {sum(together) / alone:.2f} times as many")  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main)
