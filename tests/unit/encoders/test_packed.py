"""Packed weights: what the published file holds, and files that lie about themselves."""

import struct

import numpy as np
import pytest

from agent_memory.encoders.files import E5_FILE, find_e5
from agent_memory.encoders.static.packed import PackedModel
from agent_memory.errors import CheckpointError

HIDDEN, LAYERS, HEADS, FFN, VOCAB, POSITIONS = 32, 1, 2, 64, 8, 16
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁a", "b"]


def list_tensors():
    matrices = {"q": (HIDDEN, HIDDEN), "k": (HIDDEN, HIDDEN), "v": (HIDDEN, HIDDEN), "ao": (HIDDEN, HIDDEN)}
    matrices |= {"fi": (FFN, HIDDEN), "fo": (HIDDEN, FFN)}
    found = {"emb.word": (VOCAB, HIDDEN), "emb.pos": (POSITIONS, HIDDEN), "emb.type": (1, HIDDEN)}
    found |= {"emb.ln.w": (HIDDEN,), "emb.ln.b": (HIDDEN,)}
    for part, shape in matrices.items():
        found |= {f"l0.{part}.w": shape, f"l0.{part}.b": shape[:1]}
    return found | {f"l0.{part}.{end}": (HIDDEN,) for part in ("aln", "oln") for end in "wb"}


def build(*, tensors=None, change=None, **facts):
    """Return a small file; ``facts`` replaces numbers of its header, ``change`` rewrites the list of its tensors."""
    f = {
        "magic": b"E5S1", "version": 1, "sizes": (HIDDEN, LAYERS, HEADS, FFN, VOCAB, POSITIONS, 1), "epsilon": 1e-12,
        "block": 32, "count": len(PIECES), "special": (0, 2, 1, 3), "pieces": [p.encode() for p in PIECES],
        "scores": [0.0] * 4 + [-1.0, -2.0], "edges": None, "size": None, "map": [(ord("B"), (ord("b"),))],
        "map_count": None, "map_size": None, "listed": None,
    } | facts  # fmt: skip
    content = b"".join(f["pieces"])
    edges = f["edges"] or np.cumsum([0, *map(len, f["pieces"])]).tolist()
    mapped = b"".join(struct.pack(f"<IB{len(t)}I", source, len(t), *t) for source, t in f["map"])
    head = struct.pack("<4sI7ifi", f["magic"], f["version"], *f["sizes"], f["epsilon"], f["block"])
    head += struct.pack("<5iQ", f["count"], *f["special"], len(content) if f["size"] is None else f["size"])
    head += np.array(edges, "<u4").tobytes() + np.array(f["scores"], "<f4").tobytes() + content
    head += struct.pack(
        "<iI",
        len(f["map"]) if f["map_count"] is None else f["map_count"],
        len(mapped) if f["map_size"] is None else f["map_size"],
    )
    rng, rows, data = np.random.default_rng(0), [], b""
    for name, shape in list_tensors().items():
        count = int(np.prod(shape))
        packed = name == "emb.word" or (len(shape) == 2 and not name.startswith("emb."))
        if packed:
            blocks = np.zeros((count // 32, 18), np.uint8)
            blocks[:, :2] = np.full((count // 32, 1), 0.5, "<f2").view(np.uint8)
            blocks[:, 2:] = rng.integers(0, 256, (count // 32, 16))
            part = blocks.tobytes()
        else:
            part = rng.standard_normal(count).astype("<f4").tobytes()
        rows.append([name, int(packed), count, len(data), len(part)])
        data += part
    rows = change(rows) if change else rows
    size = sum(23 + len(row[0]) for row in rows)
    head += mapped + struct.pack("<i", len(rows) if f["listed"] is None else f["listed"])
    start = len(head) + size
    for name, kind, count, offset, length in rows:
        head += struct.pack(f"<H{len(name)}sBIQQ", len(name), name.encode(), kind, count, start + offset, length)
    return head + data


def open_model(tmp_path, content):
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    return PackedModel(path)


def test_numbers_are_read_as_they_were_written(tmp_path):
    content = build()
    model = open_model(tmp_path, content)
    assert (model.shape.hidden, model.shape.vocab, model.shape.epsilon) == (HIDDEN, VOCAB, pytest.approx(1e-12))
    assert list(model.pieces.texts) == PIECES and model.pieces.characters == {ord("B"): "b"}
    rng = np.random.default_rng(0)
    nibbles = rng.integers(0, 256, (VOCAB, 16)).astype(np.uint8)
    words = (np.concatenate([nibbles & 15, nibbles >> 4], axis=1).astype(np.float32) - 8) * 0.5
    np.testing.assert_array_equal(model.look_up(np.array([[3, 0], [7, 3]])), words[[[3, 0], [7, 3]]])
    weights = model.read_weights()
    positions = rng.standard_normal(POSITIONS * HIDDEN).astype("<f4").reshape(POSITIONS, HIDDEN)
    np.testing.assert_array_equal(weights["embeddings.position_embeddings.weight"], positions)
    assert weights["encoder.layer.0.output.dense.weight"].shape == (HIDDEN, FFN)


def at(number, place, value):
    """Return a change of one fact of one tensor in the list."""

    def change(rows):
        rows[number][place] = value(rows[number][place]) if callable(value) else value
        return rows

    return change


LIES = {
    "another magic": {"magic": b"E5S2"},
    "another version": {"version": 2},
    "no heads": {"sizes": (HIDDEN, LAYERS, 0, FFN, VOCAB, POSITIONS, 1)},
    "heads that do not divide": {"sizes": (HIDDEN, LAYERS, 5, FFN, VOCAB, POSITIONS, 1)},
    "negative layers": {"sizes": (HIDDEN, -1, HEADS, FFN, VOCAB, POSITIONS, 1)},
    "very many layers": {"sizes": (HIDDEN, 2**31 - 1, HEADS, FFN, VOCAB, POSITIONS, 1)},
    "a width beside blocks": {"sizes": (HIDDEN + 2, LAYERS, HEADS, FFN, VOCAB, POSITIONS, 1)},
    "more words than bytes": {"sizes": (HIDDEN, LAYERS, HEADS, FFN, 2**20, POSITIONS, 1)},
    "other blocks": {"block": 16},
    "no epsilon": {"epsilon": float("nan")},
    "negative pieces": {"count": -1},
    "more pieces than words": {"count": VOCAB + 1},
    "a special token beyond the pieces": {"special": (0, 2, 1, len(PIECES))},
    "a negative special token": {"special": (0, -2, 1, 3)},
    "pieces beyond the file": {"size": 2**63},
    "edges that go back": {"edges": [0, 3, 8, 2, 17, 21, 22]},
    "edges beyond the pieces": {"edges": [0, 3, 8, 12, 17, 21, 2**32 - 1]},
    "an empty piece": {"pieces": [p.encode() for p in [*PIECES[:5], ""]]},
    "a piece twice": {"pieces": [p.encode() for p in [*PIECES[:5], "<s>"]]},
    "a piece that is not UTF-8": {"pieces": [*(p.encode() for p in PIECES[:5]), b"\xff"]},
    "a score that is no number": {"scores": [0.0] * 5 + [float("nan")]},
    "an endless map": {"map_count": 2**31 - 1},
    "a negative map": {"map_count": -1},
    "a map beyond the file": {"map_size": 2**32 - 1},
    "a map that is longer than it says": {"map_size": 5},
    "a character of no script": {"map": [(0x110000, (98,))]},
    "half a character": {"map": [(66, (0xD800,))]},
    "a character twice": {"map": [(66, (98,)), (66, (97,))]},
    "fewer tensors": {"listed": 3},
    "negative tensors": {"listed": -1},
    "a tensor of another kind": {"change": at(0, 1, 0)},
    "a tensor of an unknown kind": {"change": at(1, 1, 7)},
    "a tensor with fewer numbers": {"change": at(1, 2, lambda n: n - 1)},
    "a tensor with fewer bytes": {"change": at(1, 4, lambda n: n - 4)},
    "a tensor in the header": {"change": at(3, 3, -400)},
    "a tensor beyond the file": {"change": at(3, 3, 2**40)},
    "a tensor over another": {"change": at(4, 3, 0)},
    "a tensor twice": {"change": at(4, 0, "emb.ln.w")},
    "an unknown tensor": {"change": at(4, 0, "emb.ln.c")},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_file_that_lies_is_refused(tmp_path, lie):
    with pytest.raises(CheckpointError, match="model.bin"):
        open_model(tmp_path, build(**lie))


def test_a_file_cut_anywhere_is_refused(tmp_path):
    content = build()
    for end in [*range(0, 300), *range(300, len(content), 97), len(content) - 1]:
        with pytest.raises(CheckpointError, match="model.bin"):
            open_model(tmp_path, content[:end])


def test_numbers_that_are_not_finite_are_refused_when_they_are_read(tmp_path):
    content = build()
    model = open_model(tmp_path, content)
    data = len(content) - sum(row[4] for row in _rows())
    damaged = bytearray(content)
    damaged[data : data + 2] = b"\x00\x7c"  # the scale of the first block of words: infinite
    damaged[-4:] = b"\x00\x00\xc0\x7f"  # the last number of the last norm: none
    model = open_model(tmp_path, bytes(damaged))
    with pytest.raises(CheckpointError, match=r"emb\.word"):
        model.look_up(np.array([0]))
    with pytest.raises(CheckpointError, match=r"l0\.oln\.b"):
        model.read_weights()


def _rows():
    found = []
    build(change=lambda rows: found.extend(rows) or rows)
    return found


def test_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        PackedModel(tmp_path / "nowhere.bin")


def test_the_published_file_is_read():
    model = PackedModel(find_e5() / E5_FILE)
    assert (model.shape.hidden, model.shape.layers, model.shape.vocab) == (384, 12, 250_037)
    assert len(model.pieces.texts) == 250_002 and model.pieces.texts[model.pieces.bos] == "<s>"
