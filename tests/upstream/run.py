"""Runs a framework's own tests with our classes in the place of its own.

    python tests/upstream/run.py langgraph CHECKOUT

CHECKOUT is a folder with the framework's source as its repository has it; nothing of it is kept here. What passed and
failed is printed, and what is known to differ with the reason. The exit status is 1 if anything else differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from upstream_suites import SUITES, Suite

HERE = Path(__file__).parent


def run(name: str, checkout: Path, extra: list[str]) -> dict[str, tuple[str, str]]:
    """Return (outcome, message) of each test of a suite, by name."""
    suite = SUITES[name]
    with tempfile.TemporaryDirectory() as scratch:
        outcomes = Path(scratch) / "outcomes.json"
        sources = [str(checkout / source) for source in suite.sources]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*sources, str(HERE), str(HERE.parents[1])]),
            "AGENT_MEMORY_SUITE": name,
            "AGENT_MEMORY_OUTCOMES": str(outcomes),
            "LANGSMITH_TRACING": "false",
            "OPENAI_API_KEY": "none",
        }
        options = [
            "-p",
            "upstream_plugin",
            "-p",
            "no:cacheprovider",
            "-q",
            "-W",
            "ignore",
            "-o",
            "addopts=",
            *extra,
        ]
        subprocess.run(
            [sys.executable, "-m", "pytest", *options, *suite.options, *suite.tests],
            cwd=checkout / suite.folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            check=False,
        )
        if not outcomes.exists():
            raise SystemExit(f"pytest did not come to its end in {checkout / suite.folder}")
        return {test: tuple(found) for test, found in json.loads(outcomes.read_text("utf-8")).items()}


def explain(suite: Suite, test: str) -> str | None:
    """Return why a test is known to fail, if it is."""
    return next((reason for part, reason in suite.known.items() if part in test), None)


def show(suite: Suite, outcomes: dict[str, tuple[str, str]]) -> int:
    """Print a report; returns how many tests did not do what is known of them."""
    passed = [test for test, (outcome, _) in outcomes.items() if outcome == "passed"]
    failed = {test: message for test, (outcome, message) in outcomes.items() if outcome == "failed"}
    known = {test: reason for test in failed if (reason := explain(suite, test)) is not None}
    skipped = len(outcomes) - len(passed) - len(failed)
    print(f"passed {len(passed)}, known differences {len(known)}, failed {len(failed) - len(known)}, skipped {skipped}")
    for reason in dict.fromkeys(known.values()):
        tests = [test for test in known if known[test] == reason]
        print(f"\nknown: {reason}")
        print("\n".join(f"  {test}" for test in tests))
    wrong = [test for test in failed if test not in known]
    for test in wrong:
        print(f"\nFAILED {test}\n  {failed[test]}")
    unused = [part for part in suite.known if not any(part in test for test in known)]
    for part in unused:
        print(f"\nno longer differs: {part}")
    return len(wrong) + len(unused)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", choices=SUITES)
    parser.add_argument("checkout", type=Path, help="folder with the framework's source, as its repository has it")
    parser.add_argument("pytest", nargs="*", help="further arguments of pytest, after --")
    given = parser.parse_args()
    outcomes = run(given.framework, given.checkout.resolve(), given.pytest)
    raise SystemExit(1 if show(SUITES[given.framework], outcomes) else 0)


if __name__ == "__main__":
    main()
