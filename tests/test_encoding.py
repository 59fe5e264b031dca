"""The two encoders run on two streams of a GPU; their order of waiting, without a GPU."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from audiolm.models.encoding import run_side_by_side


class FakeStream:
    """Notes what waits for what."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name = name
        self.events = events

    def wait_stream(self, other: "FakeStream") -> None:
        self.events.append(f"{self.name} waits for {other.name}")


class FakeTensor:
    """Notes which stream its memory is kept for."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def record_stream(self, stream: FakeStream) -> None:
        self.events.append(f"kept for {stream.name}")


def test_gpu_streams_wait_for_inputs_and_results(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    main, side = FakeStream("main", events), FakeStream("side", events)

    @contextlib.contextmanager
    def enter(stream: FakeStream) -> Iterator[None]:
        events.append(f"on {stream.name}")
        yield
        events.append("on main")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "stream", enter)

    def run(name: str, result: Any) -> Any:
        events.append(name)
        return result

    kept: Any = FakeTensor(events)
    device = torch.device("cuda")
    results = run_side_by_side(device, lambda: run("whisper", 1), lambda: run("beats", (kept,)))
    assert results == (1, (kept,))
    assert events == [
        "side waits for main",
        "whisper",
        "on side",
        "beats",
        "on main",
        "main waits for side",
        "kept for main",
    ]


def test_other_devices_run_one_after_the_other() -> None:
    order: list[str] = []

    def run(name: str) -> Any:
        order.append(name)
        return (torch.zeros(1),)

    run_side_by_side(torch.device("cpu"), lambda: run("whisper")[0], lambda: run("beats"))
    assert order == ["whisper", "beats"]
