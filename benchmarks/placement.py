"""Where 10^9 entries would lie: a simulation of placing root namespaces on shards, of growth, and of one shard more.

    python benchmarks/placement.py

A shard is one store: a schema of a PostgreSQL database, with one writer. A root namespace lies on one shard, found in a
table of places; ``agent-memory copy`` is what would move one. Sizes of namespaces follow a power law, as those of
tenants do. Nothing is stored: what is printed are entries, shares, and hours at the rates given.
"""

from __future__ import annotations

import argparse
import hashlib
import json

import numpy as np

MOST_OVER = 1.2
"""How much fuller than the mean a shard may become before namespaces are moved from it."""


def make_sizes(namespaces: int, entries: int, generator: np.random.Generator) -> np.ndarray:
    """Return numbers of entries, shape (namespaces,), the largest first; together about as many as given."""
    shares = generator.pareto(1.3, namespaces) + 1
    return np.sort(np.maximum(1, shares / shares.sum() * entries).astype(np.int64))[::-1]


def place_by_hash(namespaces: int, shards: int) -> np.ndarray:
    """Return the shard of each namespace by rendezvous hashing, shape (namespaces,); no table is needed for it."""
    names = np.arange(namespaces, dtype=np.uint64)
    seeds = [int.from_bytes(hashlib.sha256(b"%d" % shard).digest()[:8], "little") for shard in range(shards)]
    weights = np.stack([_mix(names ^ np.uint64(seed)) for seed in seeds])
    return weights.argmax(axis=0)


def _mix(values: np.ndarray) -> np.ndarray:
    """Return well-mixed numbers (the finaliser of MurmurHash3, which is in the public domain)."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        values = (values ^ (values >> np.uint64(33))) * np.uint64(factor)
    return values ^ (values >> np.uint64(33))


def place_by_table(sizes: np.ndarray, shards: int, order: np.ndarray) -> np.ndarray:
    """Return the shard of each namespace if each is put, as it comes, where there is least."""
    loads, places = np.zeros(shards, np.int64), np.zeros(len(sizes), np.int64)
    for number in order:
        places[number] = loads.argmin()
        loads[places[number]] += sizes[number]
    return places


def rebalance(sizes: np.ndarray, places: np.ndarray, shards: int) -> tuple[np.ndarray, int]:
    """Move namespaces from the fullest shard to the emptiest until none is much fuller than the mean.

    Returns:
        The new places, and the number of entries that were moved.
    """
    places, moved = places.copy(), 0
    for _ in range(100_000):
        loads = sum_loads(sizes, places, shards)
        full, empty = int(loads.argmax()), int(loads.argmin())
        if loads[full] <= MOST_OVER * loads.mean():
            break
        mine = np.flatnonzero(places == full)
        fitting = mine[sizes[mine] <= (loads[full] - loads[empty]) // 2]
        if not len(fitting):
            break  # one namespace is larger than a shard should be: it would have to be split
        chosen = fitting[sizes[fitting].argmax()]
        places[chosen], moved = empty, moved + int(sizes[chosen])
    return places, moved


def sum_loads(sizes: np.ndarray, places: np.ndarray, shards: int) -> np.ndarray:
    """Return the entries on each shard, shape (shards,)."""
    return np.bincount(places, weights=sizes, minlength=shards).astype(np.int64)


def describe(sizes: np.ndarray, places: np.ndarray, shards: int) -> dict[str, float]:
    """Return how full the fullest shard is, and how much fuller than the mean."""
    loads = sum_loads(sizes, places, shards)
    return {"fullest_entries": int(loads.max()), "over_mean": round(float(loads.max() / loads.mean()), 3)}


def run(entries: int, namespaces: int, shards: int, rows_per_second: float) -> dict[str, object]:
    """Simulate placing by hash and by table, growth of a tenth of the namespaces, and a quarter more shards."""
    generator = np.random.default_rng(1)
    sizes = make_sizes(namespaces, entries, generator)
    hashed = place_by_hash(namespaces, shards)
    tabled = place_by_table(sizes, shards, generator.permutation(namespaces))
    grown = np.where(generator.random(namespaces) < 0.1, sizes * 5, sizes)
    kept, moved_by_growth = rebalance(grown, tabled, shards)
    more = shards + shards // 4
    hashed_more = place_by_hash(namespaces, more)
    spread, moved_to_more = rebalance(grown, kept, more)
    moved_by_hash = int(grown[hashed != hashed_more].sum())

    def hours(moved: int) -> dict[str, float]:
        return {"share": round(moved / int(grown.sum()), 4), "hours": round(moved / rows_per_second / 3600, 1)}

    return {
        "entries": int(sizes.sum()),
        "largest_namespace": int(sizes[0]),
        "by hash": describe(sizes, hashed, shards),
        "by table": describe(sizes, tabled, shards),
        "after growth, not moved": describe(grown, tabled, shards),
        "after growth, moved": {**describe(grown, kept, shards), **hours(moved_by_growth)},
        f"{more} shards by hash": {**describe(grown, hashed_more, more), **hours(moved_by_hash)},
        f"{more} shards by table": {**describe(grown, spread, more), **hours(moved_to_more)},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000_000)
    parser.add_argument("--namespaces", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--rows-per-second", type=float, default=500.0, help="Of a copy; see machines.py.")
    given = parser.parse_args()
    print(json.dumps(run(given.entries, given.namespaces, given.shards, given.rows_per_second), indent=2))
