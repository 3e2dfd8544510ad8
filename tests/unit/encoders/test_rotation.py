"""Rotations: orthogonal, ordered, and safe on disk."""

import numpy as np
import pytest

from agent_memory.encoders import MiniLMEncoder, RotatedEncoder, Rotation, fit_rotation, needs_rotation
from agent_memory.errors import CheckpointError, DimensionMismatchError, InvalidInputError


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    return (rng.standard_normal((400, 24)) @ rng.standard_normal((24, 24))).astype(np.float32)


def test_keeps_cosines_and_orders_energy(vectors):
    rotation = fit_rotation(vectors)
    turned = rotation.apply(vectors)
    np.testing.assert_allclose(turned @ turned.T, vectors @ vectors.T, rtol=1e-3, atol=1e-2)
    energy = (turned**2).sum(0)
    assert (np.diff(energy) <= energy[:-1] * 1e-3).all()


def test_prefix_keeps_at_least_as_much_as_any_other(vectors):
    rotation = fit_rotation(vectors)
    other, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((24, 24)))
    kept = (rotation.apply(vectors)[:, :6] ** 2).sum()
    assert kept >= ((vectors @ other)[:, :6] ** 2).sum()
    assert kept >= (vectors[:, :6] ** 2).sum()


def test_fewer_vectors_than_dimensions(vectors):
    matrix = fit_rotation(vectors[:3]).matrix
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(24), atol=1e-5)


def test_same_vectors_same_fingerprint(vectors):
    assert fit_rotation(vectors).fingerprint == fit_rotation(vectors.copy()).fingerprint
    assert fit_rotation(vectors).fingerprint != fit_rotation(vectors[:200]).fingerprint


def test_round_trip_on_disk(vectors, tmp_path):
    rotation = fit_rotation(vectors)
    rotation.save(tmp_path / "rotation.safetensors")
    read = Rotation.load(tmp_path / "rotation.safetensors")
    np.testing.assert_array_equal(read.matrix, rotation.matrix)
    assert read.fingerprint == rotation.fingerprint
    assert [p.name for p in tmp_path.iterdir()] == ["rotation.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "other", "bent", "absent"])
def test_damaged_files_are_refused(vectors, tmp_path, damage):
    from safetensors.numpy import save_file

    path = tmp_path / "rotation.safetensors"
    rotation = fit_rotation(vectors)
    if damage == "cut":
        rotation.save(path)
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "other":
        save_file({"something": np.zeros(3, np.float32)}, path)
    elif damage == "bent":
        save_file({"rotation": rotation.matrix * 1.5}, path)
    with pytest.raises(CheckpointError, match="rotation"):
        Rotation.load(path)


def test_wrong_vectors_are_refused(vectors):
    with pytest.raises(InvalidInputError, match="at least 2"):
        fit_rotation(vectors[:1])
    with pytest.raises(InvalidInputError, match="not finite"):
        fit_rotation(np.full((4, 4), np.nan))
    with pytest.raises(InvalidInputError, match="shape"):
        fit_rotation(vectors[0])
    with pytest.raises(DimensionMismatchError, match="24"):
        fit_rotation(vectors).apply(vectors[:, :7])


def test_rotated_encoder_is_another_space_with_the_same_cosines():
    plain = MiniLMEncoder(precision="fp32")
    texts = ["Alice moved to Berlin.", "Where does Alice live?", "The soup was cold."]
    sample = plain.encode_documents([f"{t} {i}" for t in texts for i in range(8)])
    rotated = RotatedEncoder(plain, fit_rotation(sample))
    assert needs_rotation(plain)
    assert not needs_rotation(rotated)
    assert rotated.spec.fingerprint != plain.spec.fingerprint
    a, b = plain.encode_documents(texts), rotated.encode_documents(texts)
    np.testing.assert_allclose(a @ a.T, b @ b.T, atol=1e-5)
    np.testing.assert_allclose(rotated.encode_queries(texts), b, atol=1e-5)
    with pytest.raises(DimensionMismatchError):
        RotatedEncoder(plain, fit_rotation(np.eye(5)))
