"""All that the storage contract says, as classes of tests."""

from __future__ import annotations

from conformance.conditions import ConditionContract, EntryContract
from conformance.drafts import DraftContract
from conformance.filters import FilterContract
from conformance.generations import ChangeContract, GenerationContract
from conformance.lexical import LexicalContract
from conformance.mentions import MentionContract
from conformance.operations import JobContract, LeaseContract, QueryContract, ScheduleContract
from conformance.segments import SegmentContract
from conformance.sessions import SessionContract
from conformance.transactions import TransactionContract
from conformance.upkeep import UpkeepContract
from conformance.vectors import VectorContract
from conformance.versions import VersionContract
from conformance.words import WordContract

CONTRACTS = (
    TransactionContract,
    ConditionContract,
    EntryContract,
    FilterContract,
    DraftContract,
    VersionContract,
    SessionContract,
    SegmentContract,
    GenerationContract,
    ChangeContract,
    VectorContract,
    LexicalContract,
    WordContract,
    MentionContract,
    QueryContract,
    JobContract,
    LeaseContract,
    ScheduleContract,
    UpkeepContract,
)


def list_tests() -> dict[str, type]:
    """Return a class of tests for each contract, by the name that pytest collects it under."""
    return {f"Test{contract.__name__}": type(f"Test{contract.__name__}", (contract,), {}) for contract in CONTRACTS}
