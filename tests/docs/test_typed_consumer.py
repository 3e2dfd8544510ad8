"""A program that uses the wheel passes strict type checkers, and runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONSUMER = Path(__file__).with_name("consumer.py")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return the folder and the Python of an environment that has the wheel, and the other packages of this one."""
    folder = tmp_path_factory.mktemp("consumer")
    # By way of the source distribution: a wheel built in place takes in what an earlier build left in build/.
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    venv.create(folder / "venv")
    (packages,) = (folder / "venv").glob("lib/python3.*/site-packages")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(packages)
    # As a path line, so that the editable installation over there, which is one too, is not followed.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    shutil.copy(CONSUMER, folder / "consumer.py")
    return folder, folder / "venv" / "bin" / "python"


def _run(command, folder):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_environment_has_the_wheel_and_not_the_source(installed):
    folder, python = installed
    code = "import agent_memory.storage, agent_memory.encoders; print(agent_memory.storage.__path__[0])"
    result = _run([python, "-c", code], folder)
    assert result.stdout.startswith(str(folder)), result.stdout + result.stderr


@pytest.mark.slow
def test_a_typed_consumer_passes_mypy_strict(installed):
    folder, python = installed
    # The consumer names none of these, and reading them takes most of the time.
    heavy = "torch.*,transformers.*,sentence_transformers.*,sqlalchemy.*,mcp.*"
    (folder / "mypy.ini").write_text(f"[mypy]\nstrict = True\n[mypy-{heavy}]\nfollow_imports = skip\n")
    result = _run([sys.executable, "-m", "mypy", "--python-executable", str(python), "consumer.py"], folder)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_a_typed_consumer_passes_pyright_strict(installed):
    folder, python = installed
    settings = {"typeCheckingMode": "strict", "include": ["consumer.py"]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    result = _run([sys.executable, "-m", "pyright", "--pythonpath", str(python)], folder)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_the_typed_consumer_runs(installed):
    folder, python = installed
    result = _run([python, "-W", "ignore", "consumer.py"], folder)
    assert result.returncode == 0, result.stderr
    assert "Bob likes tea." in result.stdout
