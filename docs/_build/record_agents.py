"""Records a terminal session as an image: install, a day of work, what the next day is told.

    python docs/_build/record_agents.py docs/images/coding-agents.svg

Every command is run, in a home and a project of its own; what is shown is what it printed, some of it cut.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

_WIDTH = 112


def main(image: Path) -> None:
    """Run the session and write the image."""
    console = Console(record=True, width=_WIDTH, file=open(os.devnull, "w"), force_terminal=True)
    with tempfile.TemporaryDirectory() as folder:
        home, project = Path(folder, "home"), Path(folder, "home", "shop")
        (project / ".git").mkdir(parents=True)
        (project / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {"HOME": str(home), "PATH": path, "PYTHONWARNINGS": "ignore"}

        def run(command: str, sent: dict[str, str] | None = None) -> str:
            given = None if sent is None else json.dumps({"cwd": str(project), **sent})
            done = subprocess.run(
                command,
                shell=True,
                cwd=project,
                env=environment,
                input=given,
                capture_output=True,
                text=True,
                check=True,
            )
            return done.stdout.replace(str(home), "~")

        def show(command: str) -> None:
            console.print(Text.assemble(("~/shop $ ", "bold green"), command))
            console.print(run(command).rstrip(), highlight=False, markup=False)

        def hook(event: str, label: str, said: str = "", **sent: str) -> None:
            console.print(Text.assemble((f"{label:<10}", "bold cyan"), said or f"({event})"))
            printed = run(f"agent-memory hook {event} --agent claude-code", sent)
            if printed:
                for line in json.loads(printed)["hookSpecificOutput"]["additionalContext"].splitlines():
                    shown = re.sub(r"^<.*|^Text from earlier.*", "", line)
                    if shown:
                        console.print(Text(f"{'':<10}{shown}", style="yellow"))

        show("agent-memory agent install claude-code")
        console.print(Text("\n# Monday, in Claude Code", style="dim"))
        prompt = "We decided to use PostgreSQL for billing, because of row locks. The key is AKIAIOSFODNN7EXAMPLQ."
        hook("UserPromptSubmit", "person", prompt, session_id="monday", prompt=prompt)
        answer = "Done. We still need to migrate the invoices."
        hook("Stop", "agent", answer, session_id="monday", last_assistant_message=answer)
        spool = home / ".agent-memory" / "agents" / "spool"
        while list(spool.glob("*.json")):
            time.sleep(0.2)
        console.print(Text("\n# Tuesday", style="dim"))
        hook("SessionStart", "start", session_id="tuesday", source="startup")
        question = "Why does billing use PostgreSQL?"
        hook("UserPromptSubmit", "person", question, session_id="tuesday", prompt=question)
        console.print()
        show("agent-memory agent status claude-code")
    svg = console.export_svg(title="agent-memory and a coding agent")
    image.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code, ", ""))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
