"""Runs the examples of a document as they are printed, in the current folder, and compares what they print."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """One block of a document: Python, or a console with prompts; and what it prints, if the document says so."""

    language: str
    code: str
    output: str | None
    line: int


def examples(document: str) -> list[Example]:
    """Return the blocks of a document that can be run, in their order."""
    text = (ROOT / document).read_text("utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        if match[1] in ("python", "console"):
            found.append(Example(match[1], match[2], match[3], text.count("\n", 0, match.start()) + 1))
    return found


def run(document: str) -> None:
    """Run the examples of a document one after the other; names and files of one are there in the next."""
    names: dict[str, Any] = {}
    try:
        for example in examples(document):
            place = f"{document}:{example.line}"
            if example.language == "python":
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile(example.code, place, "exec"), names)
                _compare(printed.getvalue(), example.output or "", place)
            else:
                for command, output in _commands(example.code):
                    _compare(_shell(command), output, f"{place}: {command}")
    finally:
        for value in names.values():
            if type(value).__name__ == "Memory":
                value.close()


def _compare(printed: str, expected: str, place: str) -> None:
    """Compare what was printed with what the document says, in which "…" stands for anything."""
    pattern = ".*".join(re.escape(part) for part in expected.split("…"))
    assert re.fullmatch(pattern, printed, re.DOTALL), f"{place} printed:\n{printed}"


def _commands(console: str) -> list[tuple[str, str]]:
    parts = re.split(r"^\$ ", console, flags=re.MULTILINE)
    assert not parts[0], "a console begins with a prompt"
    return [tuple(part.split("\n", 1)) for part in parts[1:]]


def _shell(command: str) -> str:
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONWARNINGS": "ignore"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)
    return result.stdout if result.returncode == 0 else result.stdout + result.stderr
