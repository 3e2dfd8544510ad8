"""The index of vectors on the server: a table of pgvector's for each generation, with one approximate index.

A search is one statement: the approximate index over the first dimensions names candidates, whose whole vectors are
then compared with the query in single precision. Where every row is to be compared, the order is by an expression that
no index has (``+ 0``), because cached plans do not look at settings such as ``enable_indexscan``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
from typing_extensions import override

from agent_memory.errors import ExtensionError, InvalidInputError
from agent_memory.storage.codec import DTYPES
from agent_memory.storage.nearest import Nearest, NearestFound, NearestRows, NearestState, choose_coarse
from agent_memory.storage.postgres.connections import Connections, get_driver, get_raw
from agent_memory.storage.records import LATER, Generation
from agent_memory.storage.sqlite.slots import Link
from agent_memory.types import FloatArray, IdArray

if TYPE_CHECKING:
    import numpy.typing as npt

OLDEST = (0, 8, 4)
"""The oldest version of pgvector that is used: with earlier ones, VACUUM may damage an approximate index."""

MOST_CANDIDATES = 1_000
"""What ``hnsw.ef_search`` may be at most."""

_MOST_SCANNED = 20_000
"""Rows that are looked at by the approximate index for a filter, before all that satisfy it are compared."""
_SPARE = 50
"""Rows beside the ones wanted that are compared again in single precision."""
_MOST_DIMENSIONS = {"float16": 4_000, "float32": 2_000}
_TYPES = {"float16": "halfvec", "float32": "vector"}
_SIGNATURE, _END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
_VERSION = re.compile(r"\d+")

_INSTALLED = (
    "SELECT extversion, quote_ident(nspname) FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace "
    "WHERE extname = 'vector'"
)
_STATE = "SELECT seq, filled, complete, rows, candidates, recall FROM nearest WHERE generation_id = %s"
_RECORD = (
    "UPDATE nearest SET seq = %s, filled = %s, complete = %s, rows = %s, candidates = %s, recall = %s "
    "WHERE generation_id = %s"
)
_NEXT = (
    "SELECT entry_id FROM vectors JOIN entries ON id = entry_id WHERE generation_id = %s AND entry_id > %s "
    f"AND length(static) > {len(LATER)} AND superseded_at IS NULL ORDER BY entry_id LIMIT %s"
)


def name_table(generation_id: int) -> str:
    """Return the name of a generation's table."""
    return f"nearest_{int(generation_id)}"


class Words:
    """What pgvector's types and functions are called, wherever the extension is installed, for one generation."""

    def __init__(self, generation: Generation, schema: str) -> None:
        self.table = name_table(generation.id)
        self.type = f"{schema}.{_TYPES[generation.dtype]}"
        self.single, self.half = f"{schema}.vector", f"{schema}.halfvec"
        self.product, self.cosine = f"OPERATOR({schema}.<#>)", f"OPERATOR({schema}.<=>)"
        self.coarse = choose_coarse(generation)
        self.prefix = f"({schema}.subvector(vector, 1, {self.coarse})::{self.half}({self.coarse}))"
        # The approximate index leaves out what has no direction; so these rows have an index of their own.
        self.flat = f"{schema}.l2_norm({self.prefix}) = 0"
        self.operators = f"{schema}.halfvec_cosine_ops"


class PostgresNearest(Nearest):
    """``Nearest`` by pgvector.

    Args:
        place: The store.
        link: What runs the transaction's statements.
    """

    def __init__(self, place: Connections, link: Link) -> None:
        self._place, self._link = place, link

    @property
    def _raw(self) -> psycopg.Connection[Any]:
        return get_raw(self._link)

    def _name(self, generation: Generation) -> Words:
        return Words(generation, find_extension(self._place, self._raw))

    @override
    def assert_usable(self, generation: Generation | None = None) -> None:
        find_extension(self._place, self._raw)
        if generation is None:
            return
        most = _MOST_DIMENSIONS[generation.dtype]
        if generation.dimension > most:
            raise InvalidInputError(
                f"an index on the server takes vectors of at most {most} dimensions in {generation.dtype}, "
                f"and these have {generation.dimension}; use Config(index='local')"
            )

    @override
    def see_newest(self) -> None:
        self._place.begin_again(self._link)

    @override
    def read_state(self, generation: Generation) -> NearestState | None:
        row = get_driver(self._link).run(_STATE, (generation.id,)).fetchone()
        if row is None:
            return None
        seq, filled, complete, rows, candidates, recall = row
        return NearestState(seq=seq, filled=filled, complete=complete, rows=rows, candidates=candidates, recall=recall)

    # --- searching ---------------------------------------------------------------------------------------

    @override
    def search(
        self,
        generation: Generation,
        queries: FloatArray,
        k: int,
        *,
        candidates: int,
        allowed: IdArray | None,
        without: IdArray,
    ) -> list[NearestFound]:
        words = self._name(generation)
        conditions, given = [], []
        if allowed is not None:
            conditions.append("row_id = ANY(%s)")
            given.append(allowed.tolist())
        if len(without):
            conditions.append("entry_id <> ALL(%s)")
            given.append(without.tolist())

        def select(far: str, order: str, limit: int, *more: str) -> str:
            where = " AND ".join([*conditions, *more]) or "true"
            return (
                f"(SELECT row_id, vector, {far} AS far FROM {words.table} WHERE {where} ORDER BY {order} LIMIT {limit})"
            )

        whole, most = f"(vector {words.product} asked.same) + 0", max(candidates, k)
        exact = select("NULL::float8", whole, 2 * k + _SPARE)
        far = f"{words.prefix} {words.cosine} asked.coarse"
        near = f"{select(far, far, most)} UNION ALL {select('1', whole, most, words.flat)}"
        found = []
        for query in queries:
            if candidates and query[: words.coarse].astype(np.float16).any():
                found.append(self._search_one(words, near, query, given * 2, candidates))
            else:
                found.append(self._search_one(words, exact, query, given, 0))
        return found

    def _search_one(
        self, words: Words, selected: str, query: FloatArray, given: Sequence[Any], candidates: int
    ) -> NearestFound:
        score = f"-(vector::{words.single} {words.product} asked.whole)"
        sql = f"WITH near AS MATERIALIZED ({selected}) SELECT row_id, {score}, far FROM near ORDER BY 2 DESC, row_id"
        # The values are written out, so that the planner knows them.
        whole, coarse = _spell(query), _spell(query[: words.coarse])
        for name, value, kind in (
            ("whole", whole, words.single),
            ("same", whole, words.type),
            ("coarse", coarse, words.half),
        ):
            sql = sql.replace(f"asked.{name}", f"'{value}'::{kind}")
        raw = self._raw
        if candidates:
            settings = (str(max(candidates, 10)), "relaxed_order", str(_MOST_SCANNED))
            raw.execute(
                "SELECT set_config('hnsw.ef_search', %s, true), set_config('hnsw.iterative_scan', %s, true), "
                "set_config('hnsw.max_scan_tuples', %s, true)",
                settings,
            )
        rows = raw.execute(sql, given, prepare=False).fetchall()
        ids = np.array([row[0] for row in rows], np.int64)
        scores = np.array([row[1] for row in rows], np.float32)
        near = 1 - np.array([row[2] for row in rows], np.float32) if candidates else None
        return NearestFound(ids=ids, scores=scores, nearness=near)

    @override
    def score(self, generation: Generation, query: FloatArray, ids: IdArray) -> tuple[IdArray, FloatArray]:
        words = self._name(generation)
        sql = (
            f"SELECT row_id, -(vector::{words.single} {words.product} %s::text::{words.single}) FROM {words.table} "
            "WHERE row_id = ANY(%s) ORDER BY row_id"
        )
        rows = self._raw.execute(sql, (_spell(query), ids.tolist())).fetchall()
        return np.array([row[0] for row in rows], np.int64), np.array([row[1] for row in rows], np.float32)

    @override
    def read_ids(self, generation: Generation, *, first: int = 0) -> IdArray:
        sql = f"SELECT row_id FROM {name_table(generation.id)} WHERE row_id >= %s ORDER BY row_id"
        return np.array([row[0] for row in self._raw.execute(sql, (first,)).fetchall()], np.int64)

    @override
    def read_vectors(self, generation: Generation, ids: IdArray) -> FloatArray:
        sql = f"SELECT vector::text FROM {name_table(generation.id)} WHERE row_id = ANY(%s) ORDER BY row_id"
        rows = self._raw.execute(sql, (ids.tolist(),)).fetchall()
        matrix = [np.fromstring(row[0][1:-1], np.float32, sep=",") for row in rows]
        return np.array(matrix, np.float32).reshape(len(rows), generation.dimension)

    # --- writing -----------------------------------------------------------------------------------------

    @override
    def begin(self, generation: Generation, state: NearestState) -> None:
        words, raw = self._name(generation), self._raw
        raw.execute(f"DROP TABLE IF EXISTS {words.table}")
        raw.execute("DELETE FROM nearest WHERE generation_id = %s", (generation.id,))
        raw.execute(
            f"CREATE TABLE {words.table} (row_id bigint PRIMARY KEY, "
            "entry_id bigint NOT NULL REFERENCES entries (id) ON DELETE CASCADE, "
            f"vector {words.type}({generation.dimension}) NOT NULL)"
        )
        # A row lies in one piece, where no other lies partly; and the planner keeps no samples of vectors.
        raw.execute(f"ALTER TABLE {words.table} ALTER vector SET STORAGE PLAIN, ALTER vector SET STATISTICS 0")
        raw.execute(f"CREATE INDEX ON {words.table} (entry_id)")
        protected = "SELECT relrowsecurity FROM pg_class WHERE oid = 'entries'::regclass"
        raw.execute(f"SELECT protect_table(%s) WHERE ({protected})", (words.table,))
        raw.execute("INSERT INTO nearest (generation_id) VALUES (%s)", (generation.id,))
        self.record(generation, state)

    @override
    def list_next(self, generation: Generation, after: int, limit: int) -> IdArray:
        rows = self._raw.execute(_NEXT, (generation.id, after, limit)).fetchall()
        return np.array([row[0] for row in rows], np.int64)

    @override
    def put(self, generation: Generation, entries: IdArray, rows: Sequence[NearestRows]) -> int:
        raw, table = self._raw, name_table(generation.id)
        gone = raw.execute(f"DELETE FROM {table} WHERE entry_id = ANY(%s)", (entries.tolist(),)).rowcount
        added = sum(len(some.ids) for some in rows)
        if added:
            with raw.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN (FORMAT BINARY)") as copy:
                copy.write(_SIGNATURE)
                for some in rows:
                    copy.write(_encode(some, generation).tobytes())
                copy.write(_END)
        return added - gone

    @override
    def record(self, generation: Generation, state: NearestState) -> None:
        facts = (state.seq, state.filled, state.complete, state.rows, state.candidates, state.recall)
        self._raw.execute(_RECORD, (*facts, generation.id))


def _encode(rows: NearestRows, generation: Generation) -> npt.NDArray[Any]:
    """Return rows as COPY's binary format has them: numbers of bytes and values, big-endian."""
    number = DTYPES[generation.dtype].newbyteorder(">")
    size = 4 + number.itemsize * generation.dimension
    fields = [("fields", ">i2"), ("id_size", ">i4"), ("id", ">i8"), ("entry_size", ">i4"), ("entry", ">i8")]
    fields += [("size", ">i4"), ("dimension", ">i2"), ("unused", ">i2")]
    form = np.dtype([*fields, ("vector", number, (generation.dimension,))])
    page = np.zeros(len(rows.ids), form)
    page["fields"], page["id_size"], page["entry_size"], page["size"] = 3, 8, 8, size
    page["id"], page["entry"], page["dimension"] = rows.ids, rows.entries, generation.dimension
    page["vector"] = rows.vectors
    return page


def _spell(vector: FloatArray) -> str:
    """Return a vector as pgvector reads it, with as many digits as single precision holds."""
    return f"[{','.join(f'{number:.9g}' for number in vector.tolist())}]"


def find_extension(place: Connections, raw: psycopg.Connection[Any]) -> str:
    """Return the schema in which pgvector is installed, quoted.

    Raises:
        ExtensionError: It is not installed in the database, or too old.
    """
    if place.extension is not None:
        return place.extension
    row = raw.execute(_INSTALLED).fetchone()
    if row is None:
        raise ExtensionError(place.address.name, "pgvector", None, _join(OLDEST))
    version = tuple(int(part) for part in _VERSION.findall(row[0])[:3])
    if version < OLDEST:
        raise ExtensionError(place.address.name, "pgvector", row[0], _join(OLDEST))
    place.extension = str(row[1])
    return place.extension


def _join(version: Sequence[int]) -> str:
    return ".".join(str(part) for part in version)
