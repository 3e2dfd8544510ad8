from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import warnings
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_importing_loads_none_of_the_heavy_libraries():
    code = (
        "import sys, agent_memory, agent_memory.encoders, agent_memory.index;"
        "heavy = {'torch', 'faiss', 'sqlalchemy', 'transformers', 'alembic'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or None)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_opening_a_store_loads_no_model_library(tmp_path):
    code = (
        "import sys, agent_memory; agent_memory.Memory(sys.argv[1]).close();"
        "sys.exit(', '.join({'torch', 'transformers', 'faiss'} & set(sys.modules)) or None)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


WITHOUT_TORCH = """
import sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "sentence_transformers", "scipy", "sklearn"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())

from agent_memory import EncoderError, Memory, MissingDependencyError

with Memory(sys.argv[1]) as memory:
    memory.add("So, what would you like?", session="gift", speaker="Ann")
    memory.add("A new pair of running shoes.", session="gift", speaker="Ben")
    memory.add("For your birthday, then.", session="gift", speaker="Ann")
    home = memory.add("Alice moved to Berlin in May.").key
    memory.add_many([f"Note {number}: the shelf in room {number} holds paint and brushes." for number in range(150)])
    assert memory.recall("What would Ben like for his birthday?", session="gift")[0].text.startswith("A new pair")
with Memory(sys.argv[1]) as memory:
    assert memory.recall("Where does Alice live?")[0].entry.key == home
    assert "room 77" in memory.recall("What is on the shelf in room 77?")[0].text
    memory.update(home, text="Alice moved to Rome.")
    assert memory.forget(home) == 1
    assert "Alice" not in memory.recall("Where does Alice live?")[0].text
    assert memory.check().ok
    memory.reindex(encoder="minilm")
    assert [one.entries for one in memory.sessions()] == [3]
    try:
        Memory(sys.argv[1] + "-other", encoder=sys.argv[2])
    except MissingDependencyError as error:
        assert "pip install 'agent-memory[sentence-transformers]'" in str(error), error
    else:
        raise AssertionError("opened")
from agent_memory.encoders import MiniLMEncoder
try:
    MiniLMEncoder(precision="int8").encode_queries(["a question"])
except EncoderError as error:
    assert "torch cannot be imported" in str(error), error
else:
    raise AssertionError("encoded")
"""


def test_the_embedded_encoders_do_without_torch(tmp_path):
    from agent_memory.encoders.files import find_minilm

    command = [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path / "store"), str(find_minilm())]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "store-other").exists()


def test_a_few_entries_and_questions_do_not_import_torch(tmp_path):
    code = (
        "import sys; from agent_memory import Memory\n"
        "with Memory(sys.argv[1]) as memory:\n"
        "    memory.add('Alice moved to Berlin.', session='home', speaker='Ann', event_time='2024-05-01')\n"
        "    memory.add_many([f'Note {number}' for number in range(100)])\n"
        "    memory.recall('Where does Alice live?', session='home')\n"
        "    sys.exit(', '.join({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)) or None)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_every_exported_name_can_be_imported():
    import agent_memory

    for name in agent_memory.__all__:
        assert getattr(agent_memory, name).__name__ == name
    assert set(agent_memory.__all__) <= set(dir(agent_memory))
    assert agent_memory.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    with pytest.raises(AttributeError):
        _ = agent_memory.nonsense


def test_the_users_own_modules_are_left_alone(tmp_path):
    for name in ("storage", "index", "encoders"):
        (tmp_path / f"{name}.py").write_text(f"MINE = {name!r}\n")
    (tmp_path / "app.py").write_text(
        "import encoders, index, storage\n"
        "from agent_memory import Memory\n"
        "with Memory('store') as memory:\n"
        "    memory.stats()\n"
        "import agent_memory.storage.sqlite.database, agent_memory.index.tiered\n"
        "assert (storage.MINE, index.MINE, encoders.MINE) == ('storage', 'index', 'encoders')\n"
    )
    result = subprocess.run([sys.executable, "app.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_revisions_match_the_migrations_folder():
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    from agent_memory.storage.sqlite.migrate import REVISIONS

    config = Config()
    config.set_main_option("script_location", "agent_memory.storage.sqlite:migrations")
    script = ScriptDirectory.from_config(config)
    assert tuple(reversed([revision.revision for revision in script.walk_revisions()])) == REVISIONS


def not_lexical(item, name, kind, *_):
    return not (kind == "table" and name.startswith("lexical"))


def test_the_migrated_schema_is_the_one_that_queries_are_written_against(tmp_path):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy.dialects import sqlite
    from sqlalchemy.schema import CreateIndex

    from agent_memory.storage.sqlite.connections import Connections
    from agent_memory.storage.sqlite.migrate import ensure_schema
    from agent_memory.storage.sqlite.schema import metadata

    database = Connections(tmp_path / "memory.db", lock_timeout_s=1)
    ensure_schema(database)
    with database.read() as connection:
        context = MigrationContext.configure(connection.full, opts={"include_object": not_lexical})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*expression-based index")  # it is compared below
            differences = compare_metadata(context, metadata)
        stored = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'ux_entries_key'").scalar_one()
    database.close()
    assert differences == []
    (index,) = (index for index in metadata.tables["entries"].indexes if index.name == "ux_entries_key")
    assert stored == str(CreateIndex(index).compile(dialect=sqlite.dialect()))


@pytest.mark.slow
def test_wheel_and_sdist_hold_the_right_files(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    held = set(zipfile.ZipFile(wheel).namelist())
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "agent_memory").rglob("*.py")}
    for part in ("encoders", "index", "storage"):
        sources |= {f"agent_memory/{path.relative_to(ROOT)}" for path in (ROOT / part).rglob("*.py")}
    sources |= {"agent_memory/demo/conversation.jsonl", "agent_memory/demo/queries.jsonl", "agent_memory/py.typed"}
    assert sources <= held
    top = {name.split("/")[0] for name in held}
    assert {name for name in top if not name.endswith(".dist-info")} == {"agent_memory"}
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "LICENSE", "storage/sqlite/schema.py", "index/tiered.py"} <= names
