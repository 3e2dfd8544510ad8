"""What pytest loads in the framework's checkout: replaces the classes, and writes down the outcomes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from upstream_suites import SUITES

_outcomes: dict[str, list[str]] = {}


def pytest_configure(config: pytest.Config) -> None:
    """Replace the classes before the tests import them."""
    SUITES[os.environ["AGENT_MEMORY_SUITE"]].replace()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note an outcome, and the last line of a failure."""
    if report.when == "call" or report.outcome != "passed":
        text = report.longrepr.reprcrash.message if hasattr(report.longrepr, "reprcrash") else str(report.longrepr)
        _outcomes[report.nodeid] = [report.outcome, text.strip().split("\n")[0] if report.failed else ""]


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note a file that cannot be imported."""
    if report.failed:
        _outcomes[report.nodeid] = ["failed", str(report.longrepr).strip().split("\n")[-1]]


def pytest_sessionfinish() -> None:
    """Hand the outcomes over."""
    Path(os.environ["AGENT_MEMORY_OUTCOMES"]).write_text(json.dumps(_outcomes), "utf-8")
