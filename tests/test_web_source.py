"""Asking the supervisor for many: one question at a time, and one answer for all who ask meanwhile."""

import asyncio
import threading
from collections import Counter

import pytest

from pipeline.errors import ControlError, NotRunningError
from pipeline.status import Overview
from pipeline.web import source as module
from pipeline.web.source import Source
from tests.overviews import an_overview

DEADLINE_S = 20.0


class FakeClient:
    """Answers when it may, or fails."""

    def __init__(self):
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.error = None
        self.asked: Counter[str] = Counter()
        self.known = an_overview()

    def overview(self, after):
        assert after == module.NO_NOTICES
        return self._answer("overview", self.known)

    def storage(self):
        return self._answer("storage", self.known.storage)

    def close(self):
        self.asked["close"] += 1

    def _answer(self, name, answer):
        self.asked[name] += 1
        assert self.may_answer.wait(DEADLINE_S)
        if self.error:
            raise self.error
        return answer


@pytest.fixture
def client(monkeypatch):
    """Stands in for the client of the control socket; what is shared does not grow old while a test looks."""
    fake = FakeClient()
    monkeypatch.setattr(module, "Client", lambda *_: fake)
    monkeypatch.setattr(module, "SHARED_S", DEADLINE_S)
    return fake


def run(scene, tmp_path):
    """Play a scene with a source."""

    async def main():
        source = Source(tmp_path)
        try:
            async with asyncio.timeout(DEADLINE_S):
                await scene(source)
        finally:
            source.close()

    asyncio.run(main())


def test_one_answer_for_all(client, tmp_path):
    """Who asks while a question is under way, and soon after it, gets the same answer; so do metrics."""

    async def scene(source):
        client.may_answer.clear()
        asking = [asyncio.create_task(source.overview()) for _ in range(20)]
        asking[0].cancel()
        await asyncio.sleep(0)
        client.may_answer.set()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert [answer for answer in answers[1:] if answer is not client.known] == []
        assert await source.overview() is client.known
        assert await source.metrics() is await source.metrics()
        assert client.asked == {"overview": 1}

    run(scene, tmp_path)


def test_what_is_old_is_asked_for_again(client, tmp_path, monkeypatch):
    """An answer is shared for a moment only."""
    monkeypatch.setattr(module, "SHARED_S", 0.0)

    async def scene(source):
        first = await source.metrics()
        client.known = an_overview(uptime_seconds=61.0)
        assert await source.overview() is client.known
        assert await source.metrics() != first

    run(scene, tmp_path)


def test_nobody_answers(client, tmp_path):
    """All who wait hear it of one question; the next one is a new question."""

    async def scene(source):
        client.error = NotRunningError("nobody is there")
        client.may_answer.clear()
        waiting = [asyncio.create_task(source.overview()) for _ in range(5)]
        waiting += [asyncio.create_task(source.ask(lambda c: c.storage())) for _ in range(5)]
        while not client.asked:  # noqa: ASYNC110  a thread asks
            await asyncio.sleep(0.001)
        client.may_answer.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(answer) for answer in answers] == [NotRunningError] * 10
        assert client.asked.total() == 1
        client.error = None
        assert await source.overview() is client.known

    run(scene, tmp_path)


def test_an_answer_that_cannot_be_read(client, tmp_path):
    """A service of another version is told as that, not as a fault of ours."""

    async def scene(source):
        with pytest.raises(ControlError, match="another version"):
            await source.ask(lambda _: Overview.model_validate({}))

    run(scene, tmp_path)
    assert not client.asked or client.asked == {"close": 1}
