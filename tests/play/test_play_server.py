"""`wm-jax play` as visitors meet it, well-meaning ones and others."""

import asyncio
import base64
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import wm_jax
from wm_jax.errors import UserError
from wm_jax.pipeline import bundle
from wm_jax.play import server
from wm_jax.play.game import Game
from wm_jax.rollouts.lanes import TaskEnv

pytestmark = pytest.mark.whole

BUNDLE = Path(__file__).parents[2] / "wm_jax" / "pretrained" / "swing_up.safetensors"
SEED = 1_000_003


class Served:
    """A server in a process of its own."""

    def __init__(self, environment: dict[str, str]):
        command = [sys.executable, "-m", "wm_jax", "play", str(BUNDLE), "--port", "0"]
        self.process = subprocess.Popen(command, env={**environment, "PYTHONUNBUFFERED": "1"}, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        assert self.process.stdout is not None
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                return
        raise AssertionError(self.said)

    def visit(self, **options: Any) -> ClientConnection:
        """A visitor's connection, as the page makes it."""
        options = {"origin": f"http://127.0.0.1:{self.port}", "open_timeout": 60, **options}
        return connect(f"ws://127.0.0.1:{self.port}/actual", **options)

    def get(self, **headers: str) -> tuple[int, bytes]:
        """(status, body) of the page."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as client:
            client.request("GET", "/", headers=headers)
            answer = client.getresponse()
            return answer.status, answer.read()

    def end(self) -> str:
        """Press Ctrl-C; returns what is said then."""
        self.process.send_signal(signal.SIGINT)
        said, _ = self.process.communicate(timeout=60)
        return said


@pytest.fixture(scope="module")
def served(environment: dict[str, str]) -> Iterator[Served]:
    running = Served(environment)
    yield running
    if running.process.poll() is None:
        running.end()


def ask(visitor: ClientConnection, message: Any) -> dict[str, Any]:
    """The answer to a message."""
    visitor.send(message if isinstance(message, str | bytes) else json.dumps(message))
    return json.loads(visitor.recv(timeout=60))


def pixels(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(64, 64, 3)


def test_a_game_is_the_agents_own_episode() -> None:
    """Frame by frame what the agent plays by hand; a visitor's action is done in place of C's."""
    agent, found = wm_jax.load(BUNDLE), bundle.load(BUNDLE)
    game, player = Game(found), agent.player(seed=SEED)
    by_hand = TaskEnv(found.models.task, found.models.task.make())
    frame, now = by_hand.reset(SEED), game.begin(SEED)
    for _ in range(20):
        np.testing.assert_array_equal(now.frame, frame)
        frame, *_ = by_hand.step(player(frame))
        now = game.step(None)
    assert now.steps == 20 and not now.over and np.abs(now.seen.astype(int) - now.frame).mean() < 10
    pushed = [Game(found) for _ in range(2)]
    for each, action in zip(pushed, (-1.0, 1.0), strict=True):
        each.begin(SEED)
        for _ in range(10):
            each.step(np.array([action], np.float32))
    assert not np.array_equal(pushed[0].now.frame, pushed[1].now.frame)
    for _ in range(300):
        now = game.step(None)
    assert now.over == "the time limit was reached" and now.steps == 250
    assert game.begin(SEED).steps == 0
    for each in (game, *pushed):
        each.close()


def test_the_page_comes_with_its_actual_environment(served: Served) -> None:
    status, page = served.get()
    assert status == 200 and b'id="actual-play"' in page and b"connect-src 'self'" in page


def test_steps_are_played(served: Served) -> None:
    with served.visit() as visitor:
        first = ask(visitor, {"begin": SEED})
        assert (first["earned"], first["steps"], first["over"]) == (0.0, 0, "")
        assert pixels(first["frame"]).std() > 0 and pixels(first["seen"]).shape == (64, 64, 3)
        for number in range(1, 4):
            assert ask(visitor, {"step": None if number % 2 else [0.5]})["steps"] == number
        assert ask(visitor, {"begin": SEED}) == first


def test_a_thousand_malformed_messages_harm_nobody(served: Served) -> None:
    generator = random.Random(0)
    pieces = ["{", "}", "[", "]", '"', "begin", "step", ":", ",", "null", "true", "1e999", "-1", "NaN", "0.5", "\\u0000",
              "é", '{"begin": ', '{"step": ', "[[", "9" * 30, " "]  # fmt: skip
    wrong = [{"begin": -1}, {"begin": 2**31}, {"begin": 1.5}, {"begin": True}, {"begin": None}, {"step": []}, {"step": [2]},
             {"step": [0.1, 0.2]}, {"step": ["a"]}, {"step": {"0": 1}}, {"step": [True]}, {"step": [1e400]}, {"end": 1}, {},
             [], 3, None, {"begin": 1, "step": None}]  # fmt: skip
    with ExitStack() as everybody:
        # Answers keep a pace; several visitors are through sooner.
        visitors = [everybody.enter_context(served.visit()) for _ in range(8)]
        assert "before a step" in ask(visitors[0], {"step": None})["error"]
        begun = ask(visitors[0], {"begin": SEED})
        for message in (*wrong, b"\x00\xff"):
            assert "expected" in ask(visitors[0], message)["error"], message
        for _ in range(125):
            messages = ["".join(generator.choices(pieces, k=generator.randint(0, 12))) for _ in visitors]
            for visitor, message in zip(visitors, messages, strict=True):
                visitor.send(message)
            for visitor, message in zip(visitors, messages, strict=True):
                assert "expected" in json.loads(visitor.recv(timeout=60))["error"], message
        assert all(ask(visitor, {"begin": SEED}) == begun for visitor in visitors)


def test_what_is_too_long_ends_its_own_connection_alone(served: Served) -> None:
    with served.visit() as other:
        with served.visit() as visitor, pytest.raises(ConnectionClosed):
            ask(visitor, "x" * (server.LARGEST + 1))
        assert ask(other, {"begin": SEED})["steps"] == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a refused client's socket
def test_other_sites_and_other_names_are_refused(served: Served) -> None:
    assert served.get(Host="evil.example")[0] == 400
    for origin in ("http://evil.example", f"http://localhost:{served.port}", None):
        with pytest.raises(InvalidStatus, match="403"):
            served.visit(origin=origin)


@pytest.mark.parametrize(
    ("header", "host", "fine"),
    [("127.0.0.1:8000", "127.0.0.1", True), ("localhost", "127.0.0.1", True), ("192.168.0.7:80", "0.0.0.0", True),
     ("box.lan:8000", "box.lan", True), ("evil.example", "0.0.0.0", False), ("evil.example:8000", "127.0.0.1", False),
     ("127.0.0.1.evil.example", "127.0.0.1", False), ("", "127.0.0.1", False)],
)  # fmt: skip
def test_hosts_that_are_known(header: str, host: str, fine: bool) -> None:
    assert server.known(header, host) == fine


def test_who_finds_no_place_is_told_to_wait_and_a_place_that_is_left_is_free(served: Served) -> None:
    with ExitStack() as everybody:
        visitors = [everybody.enter_context(served.visit()) for _ in range(server.VISITORS)]
        assert all(ask(visitor, {"begin": SEED})["steps"] == 0 for visitor in visitors)
        with served.visit() as late:
            assert "try again" in json.loads(late.recv(timeout=60))["wait"]
        visitors[0].close()
        for _ in range(100):
            with served.visit() as late:
                if "steps" in ask(late, {"begin": SEED}):
                    break
        else:
            raise AssertionError("the place was not free again")


def test_ctrl_c_ends_it_and_frees_its_port(environment: dict[str, str]) -> None:
    running = Served(environment)
    with running.visit() as visitor:
        ask(visitor, {"begin": SEED})
        said = running.end()
    assert running.process.returncode == 0 and said.splitlines() == ["the server has stopped"]
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", running.port))


def test_a_port_that_is_taken_is_said(environment: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "wm_jax", "play", str(BUNDLE), "--port", port]
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and f"cannot listen on 127.0.0.1:{port}" in done.stderr
    with pytest.raises(UserError, match="--host is empty"), server.listening("", 0):
        pass


def test_a_visitor_who_reads_nothing_loses_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network: a connection whose sends wait for ever."""

    class Deaf:
        async def receive(self) -> dict[str, str]:
            return {"type": "websocket.receive", "text": '{"begin": 1}'}

        async def send_text(self, text: str) -> None:
            await asyncio.Event().wait()

    async def visit() -> int:
        room = server.Room(bundle.load(BUNDLE))
        async with room.open():
            with pytest.raises(TimeoutError):
                await room.visit(Deaf())
        return room.taken

    monkeypatch.setattr(server, "IDLE", 0.2)
    assert asyncio.run(visit()) == 0
