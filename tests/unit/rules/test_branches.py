"""Names of branches: a function of the headers inside, whatever lies beside them and however they came."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from klal.model.frontier import Head
from klal.model.keys import branch_id_of
from klal.rules.branches import Strand, branches_of
from klal.rules.merge import ChangeRef
from tests.helpers.memory_station import named

LOG = sha256(b"a log").digest()

paths = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7).map(tuple), min_size=1, max_size=8)


def hash_of(path: tuple[int, ...]) -> bytes:
    return sha256(bytes(path)).digest()


def chain(path: tuple[int, ...]) -> list[bytes]:
    return [hash_of(path[:length]) for length in range(1, len(path) + 1)]


class Shelf:
    """Strands as a station keeps them: what came first is never moved."""

    def __init__(self) -> None:
        self.strands: list[Strand] = []
        self.hashes: list[list[bytes]] = []

    def hash_at(self, ref: ChangeRef) -> bytes:
        return self.hashes[ref.log][ref.seq - self.strands[ref.log].start]

    def add(self, headers: list[bytes]) -> None:
        log: int | None = None
        for seq, hashed in enumerate(headers):
            at = next((i for i, s in enumerate(self.strands) if hashed in self.hashes[i] and s.start <= seq), None)
            if at is None:
                if log is None or self.strands[log].start + len(self.hashes[log]) != seq:
                    self.strands.append(Strand(len(self.strands), log, seq))
                    self.hashes.append([])
                    log = len(self.strands) - 1
                self.hashes[log].append(hashed)
            else:
                log = at

    def heads(self, chains: list[list[bytes]]) -> dict[bytes, Head]:
        """Return what a frontier of just these prefixes names."""
        inside = {hashed for headers in chains for hashed in headers}
        lengths = {
            strand.log: strand.start + sum(hashed in inside for hashed in self.hashes[strand.log])
            for strand in self.strands
        }
        branches = branches_of(LOG, self.strands, lengths, self.hash_at)
        return {branch.log_id: Head(branch.length, self.hash_at(branch.last)) for branch in branches}


@given(paths, st.data())
def test_names_are_a_function_of_the_headers_inside(drawn, data):
    """LOG-7 FRN-4: against the definition, for any subset, and for every order in which the branches came."""
    order = data.draw(st.permutations(drawn))
    subset = [path[: data.draw(st.integers(0, len(path)))] for path in drawn]
    shelves = Shelf(), Shelf()
    for path in drawn:
        shelves[0].add(chain(path))
    for path in order:
        shelves[1].add(chain(path))
    want = named(LOG, [chain(path) for path in subset])

    for shelf in shelves:
        assert shelf.heads([chain(path) for path in subset]) == want
    assert sum(head.length for head in want.values()) == len({each for path in subset for each in chain(path)})


def test_an_earlier_fork_takes_from_the_log_and_renames_no_branch():
    """LOG-7: a log freezes at its earliest fork; what was a branch before is the same branch."""
    shelf = Shelf()
    late = [(0, 0, 0, 0), (0, 0, 0, 1)]
    early = (0, 1)
    for path in (*late, early):
        shelf.add(chain(path))
    before = shelf.heads([chain(path) for path in late])
    after = shelf.heads([chain(path) for path in (*late, early)])

    assert before.keys() < after.keys()
    assert (before[LOG].length, after[LOG].length) == (3, 1)
    assert after[branch_id_of(LOG, hash_of((0, 0)))].length == 2
    for path in late:
        name = branch_id_of(LOG, hash_of(path))
        assert before[name] == after[name] == Head(1, hash_of(path))


def test_a_deep_tree_of_forks_is_no_deep_recursion():
    """T16."""
    shelf = Shelf()
    path: tuple[int, ...] = ()
    for _ in range(300):
        shelf.add(chain((*path, 1)))
        path = (*path, 0)
        shelf.add(chain(path))

    assert sum(head.length for head in shelf.heads([*map(chain, [path]), *shelf.hashes]).values()) == 600
