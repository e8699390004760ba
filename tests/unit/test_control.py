"""The control socket: what is asked, told and cancelled, and who goes away."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from zarrmount.control import Conversation, Message, Request, serve_control


async def count(talk: Conversation) -> None:
    """Tell numbers until it is cancelled, or as many as are asked for."""
    number = 0
    while not talk.cancelled.is_set() and number < talk.request["up to"]:
        await talk.tell({"number": number})
        number += 1
        await trio.sleep(0.001)
    await talk.tell({"done": True, "cancelled": talk.cancelled.is_set()})


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[list[Conversation]]:
    conversations: list[Conversation] = []

    async def answer(talk: Conversation) -> None:
        conversations.append(talk)
        await count(talk)

    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, answer)
        yield conversations
        nursery.cancel_scope.cancel()


async def test_question_and_answers(tmp_path: Path) -> None:
    def ask() -> list[Message]:
        with Request(str(tmp_path / "s"), {"up to": 3}) as request:
            return [next(answers) for answers in [iter(request)] for _ in range(4)]

    async with serving(tmp_path / "s"):
        answers = await trio.to_thread.run_sync(ask)
    assert answers == [*({"number": number} for number in range(3)), {"done": True, "cancelled": False}]
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600


async def test_who_cancels_gets_a_last_word(tmp_path: Path) -> None:
    def ask() -> Message:
        with Request(str(tmp_path / "s"), {"up to": 10**9}) as request:
            for message in request:
                if message.get("number") == 5:
                    request.cancel()
                if message.get("done"):
                    return message
        raise AssertionError

    async with serving(tmp_path / "s"):
        assert await trio.to_thread.run_sync(ask) == {"done": True, "cancelled": True}


async def test_who_goes_away_cancels(tmp_path: Path) -> None:
    def ask() -> None:
        with Request(str(tmp_path / "s"), {"up to": 10**9}) as request:
            next(iter(request))

    async with serving(tmp_path / "s") as conversations:
        await trio.to_thread.run_sync(ask)
        with trio.fail_after(10):
            await conversations[0].cancelled.wait()


@pytest.mark.parametrize("said", [b"", b"nonsense\n", b"[1, 2]\n", b"cut short"])
async def test_nonsense_harms_nobody(tmp_path: Path, said: bytes) -> None:
    async with serving(tmp_path / "s") as conversations:
        async with await trio.open_unix_socket(tmp_path / "s") as stream:
            await stream.send_all(said)
            await stream.send_eof()
            assert await stream.receive_some() == b""
        assert not conversations
        async with await trio.open_unix_socket(tmp_path / "s") as stream:
            await stream.send_all(json.dumps({"up to": 0}).encode() + b"\n")
            assert json.loads(await stream.receive_some()) == {"done": True, "cancelled": False}


async def test_a_mount_that_goes_away(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with Request(str(tmp_path / "s"), {}) as request:
            listener.accept()[0].close()
            with pytest.raises(OSError, match=r"went away|reset"):
                next(iter(request))
            request.cancel()
    with pytest.raises(ConnectionRefusedError):
        Request(str(tmp_path / "s"), {})


def test_a_mount_that_has_no_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zarrmount.control._LAST_WORD", 0.1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with Request(str(tmp_path / "s"), {}) as request:
            request.cancel()
            with pytest.raises(TimeoutError):
                next(iter(request))
