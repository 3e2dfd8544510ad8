"""What every session encoder promises, kept by the compact and by the published one; and the compact one's own."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch
from support import WordEncoder
from unit.encoders.test_evoembedding_files import write_checkpoint

from agent_memory import CheckpointError, InvalidInputError, Memory
from agent_memory.encoders import (
    CompactSessionEncoder,
    EvoEncoder,
    EvoSessionEncoder,
    LatentQueue,
    SessionEncoder,
    SessionEncoderSpec,
    SessionSegment,
    encode_session,
)
from agent_memory.encoders.compact import features
from agent_memory.encoders.compact.features import (
    detect_order,
    encode_dates,
    encode_days,
    format_day,
    measure_length,
)
from agent_memory.encoders.compact.weights import Shape
from agent_memory.encoders.training.session_model import SessionNetwork

START = datetime(2024, 5, 1, tzinfo=UTC)
SHAPE = Shape(dimension=96, width=16, layers=2, heads=2, window=4, mix=3, key=8, places=12)


def random_network(shape=SHAPE, std=0.3):
    torch.manual_seed(0)
    network = SessionNetwork(shape)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=std)
        parameter.data = parameter.data.half().float()
    return network


def segments_of(encoder, count):
    texts = [f"word{i % 7} and word{i % 3} " * (1 + i % 4) for i in range(count)]
    vectors = encoder.encode_documents(texts).astype(np.float16).astype(np.float32)
    return [
        SessionSegment(static=vector, text=text, speaker=("Ann", "Bob", None)[i % 3], time=START + timedelta(days=i))
        for i, (vector, text) in enumerate(zip(vectors, texts, strict=True))
    ]


class SessionEncoderContract:
    """Subclasses give ``pair``: a static encoder and its session encoder."""

    def test_it_is_a_session_encoder(self, pair):
        assert isinstance(pair[1], SessionEncoder)
        assert pair[1].spec.static == pair[0].spec.fingerprint

    def test_shapes_lengths_and_precision(self, pair):
        encoder, session = pair
        evolved, latents, memory = encode_session(session, segments_of(encoder, 7), session.empty_memory())
        spec = session.spec
        assert evolved.shape == (7, spec.dimension)
        assert evolved.dtype == np.float32
        assert np.allclose(np.linalg.norm(evolved, axis=1), 1, atol=1e-5)
        for one in latents:
            assert one.shape == (spec.latents, spec.width)
            assert np.array_equal(one, one.astype(spec.dtype).astype(np.float32))
        assert len(memory) == min(7, spec.segments) * spec.latents

    def test_streaming_in_parts_equals_the_whole(self, pair):
        encoder, session = pair
        segments = segments_of(encoder, 9)
        whole, _, end = encode_session(session, segments, session.empty_memory())
        first, _, memory = encode_session(session, segments[:4], session.empty_memory())
        stored = LatentQueue(memory.latents.copy(), memory.capacity)
        second, _, after = encode_session(session, segments[4:], stored)
        assert np.array_equal(np.concatenate([first, second]), whole)
        assert np.array_equal(after.latents, end.latents)

    def test_nothing_is_remembered_between_calls(self, pair):
        encoder, session = pair
        segments = segments_of(encoder, 5)
        _, _, memory = encode_session(session, segments[:3], session.empty_memory())
        before = memory.latents.copy()
        one = session.embed_segment(segments[3], memory)
        session.embed_segment(segments[4], session.empty_memory())
        again = session.embed_segment(segments[3], memory)
        assert np.array_equal(one[0], again[0])
        assert np.array_equal(one[1], again[1])
        assert np.array_equal(memory.latents, before)

    def test_the_memory_changes_segment_and_question(self, pair):
        encoder, session = pair
        segments = segments_of(encoder, 4)
        _, _, memory = encode_session(session, segments[:3], session.empty_memory())
        alone, _ = session.embed_segment(segments[3], session.empty_memory())
        behind, _ = session.embed_segment(segments[3], memory)
        assert not np.allclose(alone, behind, atol=1e-4)
        static = encoder.encode_queries(["word1"])[0]
        assert np.allclose(session.embed_query(static, "word1", session.empty_memory()), static, atol=1e-5)
        assert not np.allclose(session.embed_query(static, "word1", memory), static, atol=1e-4)

    def test_what_left_the_queue_has_no_influence_on_a_question(self, pair):
        encoder, session = pair
        segments = segments_of(encoder, 6)
        _, _, memory = encode_session(session, segments, session.empty_memory())
        last = LatentQueue(memory.latents[-session.spec.capacity :].copy(), session.spec.capacity)
        static = encoder.encode_queries(["word1"])[0]
        assert np.array_equal(session.embed_query(static, "word1", memory), session.embed_query(static, "word1", last))

    def test_a_memory_of_another_encoder_is_refused(self, pair):
        encoder, session = pair
        stranger = LatentQueue(np.zeros((1, 3), np.float32), 4)
        with pytest.raises(InvalidInputError):
            session.embed_segment(segments_of(encoder, 1)[0], stranger)

    def test_in_a_store(self, pair, tmp_path):
        encoder, session = pair
        with Memory(tmp_path, encoder=encoder, session_encoder=session) as memory:
            for number in range(4):
                memory.add(f"word{number} said", session="s", key=f"k{number}")
            assert len(memory.recall("word2", session="s", k=4, mode="dense")) == 4
            memory.forget("k1")
            assert memory.check().problems == ()


class TestCompact(SessionEncoderContract):
    @pytest.fixture(scope="class")
    @classmethod
    def pair(cls, tmp_path_factory):
        path = tmp_path_factory.mktemp("weights") / "w.safetensors"
        random_network().write(path, {"encoder": "words"})
        encoder = WordEncoder()
        return encoder, CompactSessionEncoder(encoder, path)


class TestPublished(SessionEncoderContract):
    @pytest.fixture(scope="class")
    @classmethod
    def pair(cls, tmp_path_factory):
        torch.set_num_threads(1)
        encoder = EvoEncoder(write_checkpoint(tmp_path_factory.mktemp("evo") / "model", capacity=8))
        return encoder, EvoSessionEncoder(encoder)


def test_one_at_a_time_equals_the_whole_conversation_at_once(tmp_path):
    network = random_network(
        Shape(dimension=96, width=32, layers=3, heads=4, window=6, mix=4, key=8, places=12), std=0.1
    )
    network.write(tmp_path / "w.safetensors", {"encoder": "words"})
    encoder = WordEncoder()
    session = CompactSessionEncoder(encoder, tmp_path / "w.safetensors")
    segments = segments_of(encoder, 25)
    evolved, _, memory = encode_session(session, segments, session.empty_memory())

    def tags(words):
        rows = [encoder.encode_documents([word])[0] if word else np.zeros(96, np.float32) for word in words]
        return torch.from_numpy(np.stack(rows).astype(np.float16).astype(np.float32))

    static = torch.from_numpy(np.stack([segment.static for segment in segments]))
    texts = ["word1", "the first word2 on 7 May 2024 and last week"]
    asked = encoder.encode_queries(texts)
    with torch.no_grad():
        at_once, read, last = network.evolve_segments(
            static,
            tags([segment.speaker for segment in segments]),
            tags([format_day(segment.time) for segment in segments]),
            torch.tensor([[measure_length(segment.text)] for segment in segments]),
            torch.tensor([segment.time.toordinal() for segment in segments]),
        )
        order = np.stack([detect_order(text) for text in texts])
        dates = np.stack([encode_dates(text, segments[-1].time.toordinal()) for text in texts])
        behind = torch.tensor([25, 25])
        questions = network.evolve_questions(
            torch.from_numpy(asked), behind, torch.from_numpy(order), torch.from_numpy(dates), read, last, static
        )
    # Latents are kept in half precision, which the network that trains does not do.
    assert np.abs(evolved - at_once.numpy()).max() < 2e-4
    assert np.abs(dates[1]).max() > 0
    for text, vector, expected in zip(texts, asked, questions.numpy(), strict=True):
        assert np.abs(session.embed_query(vector, text, memory) - expected).max() < 2e-4


@pytest.mark.parametrize(
    ("question", "first", "stop"),
    [
        ("What happened on 3 May 2023?", datetime(2023, 5, 3, tzinfo=UTC), datetime(2023, 5, 4, tzinfo=UTC)),
        ("What happened last week?", datetime(2024, 4, 22, tzinfo=UTC), datetime(2024, 4, 29, tzinfo=UTC)),
        ("What happened in 2023?", datetime(2023, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_period_is_the_mean_of_its_days(question, first, stop):
    mean = encode_days(np.arange(first.toordinal(), stop.toordinal())).mean(0)
    expected = mean / np.linalg.norm(mean)
    assert np.abs(encode_dates(question, START.toordinal()) - expected).max() < 1e-5


@pytest.mark.parametrize(
    "question", ["What happened since March 2023?", "What happened until yesterday?", "Wer war vor 2020 da?"]
)
def test_a_period_without_an_end_names_no_day_and_lists_none(question, monkeypatch):
    monkeypatch.setattr(features, "encode_days", lambda days: pytest.fail(f"{len(days)} days are listed"))
    assert not encode_dates(question, START.toordinal()).any()


def test_untrained_weights_leave_vectors_as_they_are(tmp_path):
    SessionNetwork(SHAPE).write(tmp_path / "w.safetensors", {"encoder": "words"})
    encoder = WordEncoder()
    session = CompactSessionEncoder(encoder, tmp_path / "w.safetensors")
    segments = segments_of(encoder, 5)
    evolved, _, memory = encode_session(session, segments, session.empty_memory())
    assert np.allclose(evolved, np.stack([segment.static for segment in segments]), atol=1e-3)
    static = encoder.encode_queries(["word1"])[0]
    assert np.allclose(session.embed_query(static, "", memory), static, atol=1e-6)


def test_the_queue_bounds_what_a_segment_can_feel(tmp_path):
    random_network().write(tmp_path / "w.safetensors", {"encoder": "words"})
    encoder = WordEncoder()
    session = CompactSessionEncoder(encoder, tmp_path / "w.safetensors")
    segments = segments_of(encoder, 30)
    _, latents, _ = encode_session(session, segments, session.empty_memory())
    horizon = session.spec.horizon
    start = 29 - horizon
    _, later, _ = encode_session(session, segments[start:], session.empty_memory())
    assert np.array_equal(later[-1], latents[-1])


@pytest.mark.parametrize("given", [np.zeros(95, np.float32), [0.0] * 96])
def test_ill_shaped_vectors_are_refused(given, tmp_path):
    random_network().write(tmp_path / "w.safetensors", {"encoder": "words"})
    session = CompactSessionEncoder(WordEncoder(), tmp_path / "w.safetensors")
    with pytest.raises(InvalidInputError, match="shape"):
        session.embed_query(given, "", session.empty_memory())


def test_files_that_are_no_weights(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(CheckpointError):
        CompactSessionEncoder(WordEncoder(), path)
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(CheckpointError):
        CompactSessionEncoder(WordEncoder(), path)
    random_network().write(path, {"encoder": "words", "heads": "3"})
    with pytest.raises(CheckpointError, match="sizes"):
        CompactSessionEncoder(WordEncoder(), path)
    random_network().write(path, {"encoder": "words", "mix": "5"})
    with pytest.raises(CheckpointError, match="shape"):
        CompactSessionEncoder(WordEncoder(), path)
    network = random_network()
    network.write(path, {"encoder": "others"})
    with pytest.raises(CheckpointError, match="others"):
        CompactSessionEncoder(WordEncoder(), path)
    with torch.no_grad():
        network.length[0] = torch.nan
    network.write(path, {"encoder": "words"})
    session = CompactSessionEncoder(WordEncoder(), path)
    with pytest.raises(CheckpointError, match="finite"):
        session.embed_segment(segments_of(WordEncoder(), 1)[0], session.empty_memory())


def test_impossible_sizes_are_refused():
    with pytest.raises(InvalidInputError, match="queue"):
        SessionEncoderSpec(name="x", revision="", static="", dimension=4, latents=3, width=4, capacity=4)


def test_the_embedded_weights_know_when_context_belongs_to_a_segment():
    from agent_memory.encoders import load_encoder

    encoder = load_encoder()
    session = CompactSessionEncoder(encoder)
    turns = ["Where do you want to eat tonight?", "The Italian place by the river, as always.", "Fine, at eight then."]
    vectors = encoder.encode_documents(turns).astype(np.float16).astype(np.float32)
    segments = [
        SessionSegment(static=v, text=t, speaker=s)
        for v, t, s in zip(vectors, turns, ("Ann", "Bob", "Ann"), strict=True)
    ]
    evolved, _, _ = encode_session(session, segments, session.empty_memory())
    question = encoder.encode_queries(["When will Ann and Bob have dinner?"])[0]
    assert evolved[2] @ question > vectors[2] @ question + 0.05
