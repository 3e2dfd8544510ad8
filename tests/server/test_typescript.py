"""The example in TypeScript, with types generated from the description of a server that runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "typescript"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The example with its packages; Node is needed, and npm's registry or its cache."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("Node with npm is not installed")
    found = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip()
    if int(found.lstrip("v").partition(".")[0]) < 20:
        pytest.skip(f"the example needs Node 20, and this is {found}")
    folder = tmp_path_factory.mktemp("typescript") / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "dist", "api.d.ts"))
    command = [npm, "ci", "--prefer-offline", "--fetch-retries", "0", "--fetch-timeout", "30000"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm cannot install the example's packages: {done.stderr.strip().splitlines()[:1]}")
    return folder


def run(project: Path, *command: str, said: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "AGENT_"))}
    return subprocess.run(
        command, cwd=project, input=said, env={**environment, **env}, capture_output=True, text=True, timeout=300
    )


def test_the_example_fits_the_description_and_chats_with_a_server(project, served, tmp_path):
    description = tmp_path / "openapi.json"
    description.write_text(json.dumps(served.client.get("/openapi.json").json()))
    generated = run(project, "npm", "run", "generate", AGENT_MEMORY_OPENAPI=str(description))
    assert generated.returncode == 0, generated.stderr
    built = run(project, "npm", "run", "build")
    assert built.returncode == 0, built.stdout
    key = served.key("acme", role="writer")
    server = {"AGENT_MEMORY_URL": served.url, "AGENT_MEMORY_KEY": key, "AGENT_MEMORY_SESSION": "chat"}
    said = "My cat is called Miso\nHow is my cat called?\n/forget\nHow is my cat called?\n"
    chat = run(project, "npm", "run", "--silent", "start", said=said, **server)
    assert (chat.returncode, chat.stderr) == (0, "")
    lines = chat.stdout.splitlines()
    assert lines[:2] == ["I remember nothing about that.", "I remember:"]
    assert lines[2].endswith(" user: My cat is called Miso")
    assert lines[3] == "1 entries forgotten"
    assert lines[5].endswith("user: How is my cat called?")
    assert {entry.session for entry in served.memory.entries()} == {"chat"}
    assert {entry.namespace for entry in served.memory.entries()} == {("acme",)}
    refused = run(project, "npm", "run", "--silent", "start", said="Hello\n", **{**server, "AGENT_MEMORY_KEY": "am_no"})
    assert refused.returncode == 1
    assert refused.stderr.strip() == "401: the key is unknown, was revoked or has expired"


def test_filters_and_problems_have_types(project, served, tmp_path):
    """What generators make of a description: an open object must take any name."""
    description = tmp_path / "openapi.json"
    description.write_text(json.dumps(served.client.get("/openapi.json").json()))
    assert run(project, "npm", "run", "generate", AGENT_MEMORY_OPENAPI=str(description)).returncode == 0
    types = (project / "src" / "api.d.ts").read_text("utf-8")
    assert "Record<string, never> | null" not in types
    wrong = (
        'import { Memory } from "./memory.js";\nconst memory = new Memory("http://x");\n'
        'await memory.recall("x", { where: { year: { $gte: 2024 } }, k: "three" });\n'
    )
    (project / "src" / "wrong.ts").write_text(wrong)
    checked = run(project, "npm", "run", "check")
    (project / "src" / "wrong.ts").unlink()
    assert checked.returncode and "wrong.ts(3" in checked.stdout
    assert checked.stdout.count("error TS") == 1 and "'string' is not assignable to type 'number" in checked.stdout
