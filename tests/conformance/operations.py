"""Operations: the ring of queries, jobs, leases and schedules."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
from conformance.samples import NOW, at, begin_live, make_draft, put, stored

from agent_memory.errors import LeaseHeldError, NotFoundError
from agent_memory.reports import Job, JobState, Schedule
from agent_memory.storage.operations import KEPT_JOBS, LEASE_S, new_holder
from agent_memory.storage.records import LoggedQuery

LEASE_MIN = LEASE_S / 60


def make_query(seed, **fields):
    given = {"namespace": (), "fingerprint": "f1", "dtype": "float16", "vector": stored(seed), "text": seed}
    return LoggedQuery(asked_at=NOW, k=5, **(given | fields))


class QueryContract:
    """``Queries``."""

    @pytest.fixture
    def live(self, database):
        return begin_live(database)

    def append(self, database, *queries, keep=100):
        with database.write() as tx:
            tx.queries.append(queries, keep=keep)

    def read(self, database, limit=100):
        with database.read() as tx:
            return tx.queries.read_texts(limit)

    def test_only_the_latest_queries_stay(self, database, live):
        self.append(database, *(make_query(f"q{number}") for number in range(5)), keep=4)
        assert self.read(database) == ["q4", "q3", "q2", "q1"]
        self.append(database, make_query("q5"), make_query("q6"), keep=4)
        assert self.read(database) == ["q6", "q5", "q4", "q3"]
        self.append(database, make_query("q7"), keep=1)
        assert self.read(database) == ["q7"]
        self.append(database, keep=1)
        with database.read() as tx:
            assert tx.queries.count(()) == 1

    def test_vectors_and_texts_come_once_each_the_newest_first(self, database, live):
        self.append(database, *(make_query(seed) for seed in ("a", "b", "c", "a")), make_query("d", text=None))
        with database.read() as tx:
            assert tx.queries.read_vectors(live, 9) == [stored(seed) for seed in "dacb"]
            assert tx.queries.read_vectors(live, 2) == [stored("d"), stored("a")]
            assert tx.queries.read_texts(9) == ["a", "c", "b"]
            assert tx.queries.read_texts(1) == ["a"]

    def test_vectors_of_other_spaces_formats_and_lengths_are_left_out(self, database, live):
        others = [{"fingerprint": "f2"}, {"dtype": "float32"}, {"vector": b"short"}]
        self.append(database, make_query("mine"), *(make_query("other", **one) for one in others))
        with database.read() as tx:
            assert tx.queries.read_vectors(live, 9) == [stored("mine")]
            assert tx.queries.count(()) == 4

    def test_queries_are_counted_and_cleared_in_or_below_a_namespace(self, database, live):
        scopes = [(), ("a",), ("a", "b"), ("ab",), ("b",)]
        self.append(database, *(make_query("/".join(scope), namespace=scope, digest=b"d") for scope in scopes))
        with database.write() as tx:
            assert [tx.queries.count(scope) for scope in scopes] == [5, 2, 1, 1, 1]
            assert tx.queries.clear(("a",)) == 2
            assert tx.queries.clear(("c",)) == 0
        assert self.read(database) == ["b", "ab", ""]
        with database.write() as tx:
            assert tx.queries.clear(()) == 3
        self.append(database, make_query("again"))
        assert self.read(database) == ["again"]

    def test_queries_go_that_could_have_found_something_in_any_number_of_namespaces(self, database, live):
        asked = [(), ("u",), ("u", "7"), ("u", "7", "deep"), ("u", "7x"), ("v",)]
        self.append(database, *(make_query("/".join(scope), namespace=scope) for scope in asked))
        with database.write() as tx:
            assert tx.queries.clear_about([]) == 0
            assert tx.queries.clear_about([("u", str(number)) for number in range(2000)]) == 4
        assert self.read(database) == ["v", "u/7x"]


class JobContract:
    """``Jobs``."""

    def test_a_job_is_read_back_as_it_was_created(self, database):
        progress = {"after": 7, "name": "é", "nested": {"list": [1, None]}}
        with database.write() as tx:
            job = tx.jobs.create("reindex", progress, NOW)
        facts = {"error": None, "created_at": NOW, "updated_at": NOW, "finished_at": None}
        assert job == Job(id=job.id, kind="reindex", state=JobState.RUNNING, progress=progress, **facts)
        with database.read() as tx:
            assert tx.jobs.get(job.id) == job
            with pytest.raises(NotFoundError):
                tx.jobs.get(job.id + 1)

    def test_a_job_says_how_far_it_is_and_how_it_ended(self, database):
        with database.write() as tx:
            job = tx.jobs.create("reindex", {}, NOW)
            tx.jobs.record(job.id, {"done": 3}, at(1))
            assert tx.jobs.get(job.id) == replace(job, progress={"done": 3}, updated_at=at(1))
            tx.jobs.set_state(job.id, JobState.PAUSED, at(2))
            paused = replace(job, progress={"done": 3}, state=JobState.PAUSED, updated_at=at(2))
            assert tx.jobs.get(job.id) == paused
            tx.jobs.set_state(job.id, JobState.FAILED, at(3), "no space")
            failed = replace(paused, state=JobState.FAILED, error="no space", updated_at=at(3), finished_at=at(3))
            assert tx.jobs.get(job.id) == failed
            tx.jobs.set_state(job.id, JobState.RUNNING, at(4))
            assert tx.jobs.get(job.id) == replace(paused, state=JobState.RUNNING, updated_at=at(4))
            tx.jobs.record(99, {}, NOW)
            tx.jobs.set_state(99, JobState.DONE, NOW)

    def test_jobs_are_listed_the_newest_first(self, database):
        with database.write() as tx:
            kinds = ["reindex", "purge", "purge", "backup", "purge"]
            ids = [tx.jobs.create(kind, {}, NOW).id for kind in kinds]
            for number, state in enumerate((JobState.DONE, JobState.PAUSED, JobState.CANCELLED)):
                tx.jobs.set_state(ids[number], state, NOW)
            assert ids == sorted(set(ids))

            def list_ids(**options):
                return [job.id for job in tx.jobs.list_all(**options)]

            assert list_ids() == ids[::-1]
            assert list_ids(kind="purge") == [ids[4], ids[2], ids[1]]
            assert list_ids(unfinished=True) == [ids[4], ids[3], ids[1]]
            assert list_ids(kind="purge", unfinished=True, limit=1) == [ids[4]]
            assert list_ids(limit=2) == [ids[4], ids[3]]
            assert list_ids(kind="nothing") == []

    def test_only_so_many_finished_jobs_are_kept(self, database):
        with database.write() as tx:
            first = tx.jobs.create("running", {}, NOW).id
            ids = [tx.jobs.create("purge", {}, NOW).id for _ in range(KEPT_JOBS + 5)]
            for job_id in ids:
                tx.jobs.set_state(job_id, JobState.DONE, NOW)
            last = tx.jobs.create("purge", {}, NOW).id
            assert [job.id for job in tx.jobs.list_all()] == [last, *ids[:4:-1], first]


class LeaseContract:
    """``Leases``."""

    def find_holder(self, database, minutes=0.0, name="work"):
        with database.read() as tx:
            return tx.leases.find_holder(name, at(minutes))

    def test_a_lease_is_held_by_one_at_a_time(self, database):
        assert self.find_holder(database) is None
        with database.write() as tx:
            tx.leases.acquire("work", "ann", NOW)
        assert self.find_holder(database) == "ann"
        with pytest.raises(LeaseHeldError) as caught, database.write() as tx:
            tx.leases.acquire("work", "bob", NOW)
        assert (caught.value.name, caught.value.holder) == ("work", "ann")
        with database.write() as tx:
            tx.leases.acquire("other work", "bob", NOW)
            tx.leases.acquire("work", "ann", NOW)
        assert self.find_holder(database, name="other work") == "bob"

    def test_a_lease_runs_out_unless_it_is_renewed(self, database):
        with database.write() as tx:
            tx.leases.acquire("work", "ann", NOW)
        assert self.find_holder(database, LEASE_MIN - 0.01) == "ann"
        assert self.find_holder(database, LEASE_MIN) is None
        with database.write() as tx:
            tx.leases.renew("work", "ann", at(LEASE_MIN / 2))
        assert self.find_holder(database, LEASE_MIN) == "ann"
        assert self.find_holder(database, 1.5 * LEASE_MIN) is None

    def test_an_expired_lease_that_nobody_took_can_be_renewed(self, database):
        with database.write() as tx:
            tx.leases.acquire("work", "ann", NOW)
            tx.leases.renew("work", "ann", at(9))
            assert tx.leases.find_holder("work", at(9)) == "ann"

    def test_whoever_lost_a_lease_cannot_commit_under_it(self, database):
        put(database, make_draft("a"))
        with database.write() as tx:
            tx.leases.acquire("work", "ann", NOW)
        with database.write() as tx:
            tx.leases.acquire("work", "bob", at(LEASE_MIN))
        with pytest.raises(LeaseHeldError) as caught, database.write() as tx:
            tx.drafts.put([make_draft("late")], tx.generations.live().id, NOW, keep_versions=0)
            tx.leases.renew("work", "ann", at(LEASE_MIN))
        assert caught.value.holder == "bob"
        with database.read() as tx:
            assert tx.changes.last_seq() == 1
        assert self.find_holder(database, LEASE_MIN) == "bob"

    def test_only_its_holder_can_give_a_lease_back(self, database):
        with database.write() as tx:
            tx.leases.acquire("work", "ann", NOW)
            tx.leases.release("work", "bob")
            assert tx.leases.find_holder("work", NOW) == "ann"
            tx.leases.release("work", "ann")
            tx.leases.release("work", "ann")
            assert tx.leases.find_holder("work", NOW) is None
            with pytest.raises(LeaseHeldError):
                tx.leases.renew("work", "ann", NOW)

    def test_a_lease_of_a_process_that_is_gone_is_free(self, database):
        child = subprocess.Popen([sys.executable, "-c", ""])
        child.wait(60)
        mine = new_holder()
        assert mine.startswith(f"{socket.gethostname()}:{os.getpid()}:")
        with database.write() as tx:
            for name, holder in (
                ("gone", f"{socket.gethostname()}:{child.pid}:0123"),
                ("elsewhere", f"another-host:{child.pid}:0123"),
                ("mine", mine),
            ):
                tx.leases.acquire(name, holder, NOW)
            assert tx.leases.find_holder("gone", NOW) is None
            assert tx.leases.find_holder("elsewhere", NOW) == f"another-host:{child.pid}:0123"
            assert tx.leases.find_holder("mine", NOW) == mine
            tx.leases.acquire("gone", "bob", NOW)

    def test_a_lease_of_a_clock_that_was_set_back_is_not_believed(self, database):
        with database.write() as tx:
            tx.leases.acquire("work", "ann", at(60))
        assert self.find_holder(database) is None
        with database.write() as tx:
            tx.leases.acquire("work", "bob", NOW)
        assert self.find_holder(database) == "bob"


class ScheduleContract:
    """``Schedules``."""

    NIGHTLY = Schedule(name="nightly", kind="maintain", trigger="0 3 * * *", options={"folder": "é", "keep": 3})

    def list_all(self, database):
        with database.read() as tx:
            return tx.schedules.list_all()

    def test_schedules_are_listed_by_name(self, database):
        others = [Schedule(name=name, kind="purge", trigger="every 30m", paused=name == "b") for name in "zaBb"]
        with database.write() as tx:
            for schedule in (self.NIGHTLY, *others):
                tx.schedules.put(schedule, NOW)
        assert self.list_all(database) == sorted([self.NIGHTLY, *others], key=lambda schedule: schedule.name)

    def test_a_replaced_schedule_keeps_when_it_last_ran(self, database):
        changed = replace(self.NIGHTLY, kind="verify", trigger="every 1d", options={}, paused=True)
        with database.write() as tx:
            tx.schedules.put(replace(self.NIGHTLY, last_run_at=at(-9)), NOW)
            assert tx.schedules.list_all() == [self.NIGHTLY]
            tx.schedules.set_last_run("nightly", at(5))
            tx.schedules.put(changed, at(6))
        assert self.list_all(database) == [replace(changed, last_run_at=at(5))]

    def test_a_schedule_is_paused_resumed_and_removed(self, database):
        with database.write() as tx:
            tx.schedules.put(self.NIGHTLY, NOW)
            tx.schedules.set_paused("nightly", True)
        assert self.list_all(database) == [replace(self.NIGHTLY, paused=True)]
        with database.write() as tx:
            tx.schedules.set_paused("nightly", False)
        assert self.list_all(database) == [self.NIGHTLY]
        with database.write() as tx:
            tx.schedules.remove("nightly")
        assert self.list_all(database) == []

    def test_a_schedule_that_is_not_there_is_an_error(self, database):
        calls = [
            lambda schedules: schedules.remove("never"),
            lambda schedules: schedules.set_paused("never", True),
            lambda schedules: schedules.set_last_run("never", NOW),
        ]
        for call in calls:
            with pytest.raises(NotFoundError), database.write() as tx:
                call(tx.schedules)
