from __future__ import annotations

import json

import numpy as np
import pytest
from support import WordEncoder

from agent_memory import InvalidInputError, Memory, NotFoundError, StorageError
from agent_memory.cli.app import main
from agent_memory.evaluation.plots import plot_session_view
from agent_memory.evaluation.session_view import view_session


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    with Memory(folder) as memory:
        texts = ["Where shall we eat?", "The Italian place.", "At eight?", "Yes, at eight.", "See you there."]
        memory.add_many([{"text": text, "speaker": ("Ann", "Bob")[n % 2]} for n, text in enumerate(texts)], session="s")
    return folder


def test_a_view_is_what_recall_said_at_each_moment(store, tmp_path):
    with Memory(tmp_path / "growing") as growing, Memory(store) as memory:
        view = view_session(memory, "s", "When do Ann and Bob meet?", steps=5, k=2)
        assert view.after == [1, 2, 3, 4, 5]
        entries = memory.entries(session="s")
        for step, entry in enumerate(entries):
            growing.add(entry.text, session="s", speaker=entry.speaker, event_time=entry.event_time)
            hits = growing.recall(view.query, session="s", k=2, mode="dense")
            assert [hit.text for hit in hits] == [view.texts[place] for place in view.top[step]]
            assert [hit.score for hit in hits] == pytest.approx(view.scores[step], abs=2e-3)
    assert view.question.shape == view.latents.shape == (5, 5)
    assert np.allclose(np.diag(view.question), 1, atol=1e-5)


def test_a_view_is_drawn(store, tmp_path):
    with Memory(store) as memory:
        view = view_session(memory, "s")
    assert view.query == "Where shall we eat?"
    plot_session_view(view, tmp_path / "view.png")
    assert (tmp_path / "view.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(StorageError):
        plot_session_view(view, tmp_path / "missing" / "view.png")


def test_sessions_that_cannot_be_viewed(store, tmp_path):
    with Memory(store) as memory, pytest.raises(NotFoundError):
        view_session(memory, "other")
    with Memory(tmp_path / "words", encoder=WordEncoder()) as memory:
        memory.add("a", session="s")
        with pytest.raises(InvalidInputError, match="session encoder"):
            view_session(memory, "s")


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["agent-memory", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_the_command_line(store, tmp_path, monkeypatch, capsys):
    plot = tmp_path / "out.png"
    assert not run(monkeypatch, "session", "show", "s", "--query", "dinner", "--plot", plot, "--path", store)
    assert "after 5 segments" in capsys.readouterr().out
    assert plot.exists()
    assert not run(monkeypatch, "session", "show", "s", "--json", "--path", store)
    assert json.loads(capsys.readouterr().out)["after"][-1] == 5
    assert not run(monkeypatch, "session", "list", "--path", store)
    assert "s  5 entries" in capsys.readouterr().out
    assert run(monkeypatch, "session", "show", "none", "--path", store) == 3
