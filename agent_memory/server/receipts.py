"""Receipts of ``forget`` as a caller may read them: where files of the server lie is the operator's to know."""

from __future__ import annotations

import re
from typing import Any

from agent_memory.records import Erasure
from agent_memory.reports import Role
from agent_memory.server.calls import Answer, Caller

_NUMBER = re.compile(r"\d+")
SAMPLE = 20
"""Entries that a preview shows."""


def show_receipt(caller: Caller, receipt: Erasure) -> dict[str, Any]:
    """Return a receipt as JSON; to anybody but the operator it names no file outside of the store, and no folder.

    Nor does it give numbers of rows or changes to whoever sees a part of the store: others' are counted in them.
    """
    facts = receipt.to_dict()
    if caller.sees_all and caller.principal.may(Role.ADMIN):
        return facts
    del facts["backups"], facts["exports"]
    if not caller.sees_all:
        facts["ids"] = []
        facts["files"] = [_NUMBER.sub("…", name) for name in facts["files"]]
    folder = str(caller.memory.path)
    return facts | {"pending": [reason.replace(folder, "the store") for reason in facts["pending"]]}


def answer_receipt(caller: Caller, receipt: Erasure) -> Answer:
    """Return the answer that a receipt becomes. It holds no content, so that it may be kept to be given again."""
    return Answer(show_receipt(caller, receipt), count=int(receipt))


def show_preview(caller: Caller, receipt: Erasure) -> dict[str, Any]:
    """Return what would be forgotten: the receipt that there would be, and some of the rows."""
    with caller.memory._store.read() as tx:
        found = tx.entries.fetch(receipt.ids[:SAMPLE])
    return {**show_receipt(caller, receipt), "would_forget": int(receipt), "sample": list(found.values())}
