"""Which project a folder belongs to: the one whose git directory it shares, so that worktrees are one project."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from agent_memory.formats.names import encode_name

VARIABLE = "AGENT_MEMORY_PROJECT"
"""Environment variable that names the project instead: ``shop``, or ``acme/shop``."""

SCOPE = "projects"
"""First part of every project's namespace."""

_LINE = 4096  # bytes of a .git file that are read


def find_project(folder: str | Path | None = None) -> tuple[str, ...]:
    """Return the namespace of the project that a folder belongs to.

    It is made of the folder's name, for people, and of a digest of its path. Two clones are two projects; a folder
    outside of any repository is one by itself.

    Args:
        folder: A folder, which need not exist; the current one if left out.

    Example:
        >>> find_project("/home/alice/shop/src")
        ('projects', 'shop-1b2e9d3f')
    """
    named = [encode_name(part) for part in os.environ.get(VARIABLE, "").split("/") if part.strip()]
    if named:
        return (SCOPE, *named)
    root = find_root(folder)
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
    name = root.parent.name if root.name == ".git" else root.name.removesuffix(".git")
    return (SCOPE, f"{encode_name(name or 'root')}-{digest}")


def find_root(folder: str | Path | None = None) -> Path:
    """Return the git directory that all worktrees of a folder's repository share; the folder if there is none."""
    start = Path(os.path.realpath(os.getcwd() if folder is None else folder))
    for place in (start, *start.parents):
        git = place / ".git"
        try:
            if git.is_dir() and (git / "HEAD").exists():
                return git
            if git.is_file() and (linked := _follow(git)) is not None:
                return linked
        except OSError:  # a folder that may not be looked into
            break
    return start


def _follow(git: Path) -> Path | None:
    """Return the common directory that the ``.git`` file of a worktree or submodule leads to."""
    found = re.match(r"gitdir: ([^\r\n]+)", _read(git))
    if found is None:
        return None
    directory = Path(os.path.realpath(git.parent / found[1]))
    common = directory / "commondir"
    if common.is_file():
        directory = Path(os.path.realpath(directory / _read(common).strip()))
    return directory if directory.is_dir() else None


def _read(file: Path) -> str:
    with file.open("rb") as stream:
        return os.fsdecode(stream.read(_LINE))
