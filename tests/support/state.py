"""What every state store promises, as a class of tests; a subclass gives the `url` fixture."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import psycopg2
import pytest

from tests.support.postgres import Database
from wal_tracker.errors import CheckpointRegression, DeadLettersFull, StateError
from wal_tracker.lsn import LSN
from wal_tracker.state import open_state
from wal_tracker.state import store as store_module
from wal_tracker.state.base import (
    Cursor,
    DeadLetter,
    Gap,
    LetterBound,
    LetterCount,
    LetterFilter,
    SourceIdentity,
    StateStore,
)

ROOT = Path(__file__).parents[2]

LETTER = DeadLetter(
    id="id-1",
    destination="posthog",
    kind="rejected",
    rule="users.insert",
    event="signup",
    table="public.users",
    commit_lsn=LSN.parse("1/A"),
    commit_time="2026-01-02T03:04:05.000006Z",
    reason="too large",
    payload=b'{"a": "\xc3\xa4\x00"}',
    answer='HTTP 413\n{"error": "too large"}',
)


def url_of(database: Database, user: str = "", password: str = "") -> str:
    """The database as a `state` URL; as the test server's superuser unless told otherwise."""
    parts = psycopg2.extensions.parse_dsn(database.dsn)
    login = f"{user or parts['user']}:{password or parts['password']}"
    return f"postgresql://{login}@{parts['host']}:{parts['port']}/{parts['dbname']}"


class StateStorePromises:
    """See `wal_tracker.state.base.StateStore`."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[StateStore]:
        """The store, open."""
        opened = open_state(url)
        yield opened
        opened.close()

    def again(self, url: str) -> StateStore:
        """What another process sees."""
        return open_state(url)

    def test_a_new_store_knows_nothing(self, store: StateStore) -> None:
        """No identity, no positions, no letters, no gaps; nobody holds it."""
        assert (store.identity(), store.cursors(), store.dead_letters(status=None), store.gaps()) == (None, {}, [], [])
        assert not store.is_held()

    def test_what_is_written_is_there_after_a_restart(self, store: StateStore, url: str) -> None:
        """Identity, positions with their marks, letters byte for byte, gaps."""
        identity = SourceIdentity("7395012345678901234", 3, "shop", "wal_tracker")
        cursors = {"a": Cursor(LSN(2**64 - 1), {"offset": 5, "ä": None}), "b": Cursor(LSN(1))}
        store.set_identity(identity)
        store.save_cursors(cursors)
        store.add([LETTER])
        store.record_gap(Gap(LSN(1), LSN(2), "slot_lost", "why"))
        store.record_gap(Gap(LSN(1), None, "slot_lost", "why"))

        other = self.again(url)
        try:
            assert other.identity() == identity
            assert other.cursors() == cursors
            (letter,) = other.dead_letters()
            assert letter == replace(LETTER, created_at=letter.created_at)
            assert letter.created_at.endswith("Z")
            assert [(gap.from_lsn, gap.to_lsn) for gap in other.gaps()] == [(1, 2), (1, None)]
        finally:
            other.close()

    def test_a_position_never_goes_back_and_all_are_stored_or_none(self, store: StateStore) -> None:
        """The one that may move stays where it is, beside the one that may not."""
        store.save_cursors({"a": Cursor(LSN(10)), "b": Cursor(LSN(10))})

        with pytest.raises(CheckpointRegression, match="'b' stands at 0/A, and 0/9 would go back"):
            store.save_cursors({"a": Cursor(LSN(20)), "b": Cursor(LSN(9))})

        assert store.cursors() == {"a": Cursor(LSN(10)), "b": Cursor(LSN(10))}
        store.save_cursors({"a": Cursor(LSN(10), {"new": "mark"})})
        assert store.cursors()["a"].mark == {"new": "mark"}

    def test_the_identity_is_replaced(self, store: StateStore) -> None:
        """A promoted standby has a new timeline."""
        store.set_identity(SourceIdentity("1", 1, "d", "s"))
        store.set_identity(SourceIdentity("1", 2, "d", "s"))

        assert store.identity() == SourceIdentity("1", 2, "d", "s")

    def test_a_change_of_mode_counts_anew_and_keeps_the_marks(self, store: StateStore, url: str) -> None:
        """Positions of the other source go forwards or back, all of them and the identity together."""
        store.set_identity(SourceIdentity("1", 1, "d", "outbox"))
        store.save_cursors({"a": Cursor(LSN(10), {"offset": 5}), "b": Cursor(LSN(30))})

        store.rebase(SourceIdentity("1", 2, "d", "slot"), LSN(20))

        other = self.again(url)
        try:
            assert other.cursors() == {"a": Cursor(LSN(20), {"offset": 5}), "b": Cursor(LSN(20))}
            assert other.identity() == SourceIdentity("1", 2, "d", "slot")
        finally:
            other.close()

    def test_a_letter_that_comes_again_is_the_same_letter(self, store: StateStore) -> None:
        """After a crash the same event is refused again; at another destination it is another letter."""
        store.add([LETTER, LETTER])
        store.add([replace(LETTER, reason="again"), replace(LETTER, destination="hook")])

        assert [(letter.destination, letter.reason) for letter in store.dead_letters()] == [
            ("posthog", "too large"),
            ("hook", "too large"),
        ]

    def test_a_letter_that_was_replayed_and_refused_again_is_dead_again(self, store: StateStore) -> None:
        """With the new reason and answer."""
        store.add([LETTER])
        for status in ("replay", "replayed"):
            store.mark_letters(LetterFilter(id=LETTER.id), status)  # type: ignore[arg-type]
            assert (store.count_dead_letters("dead"), store.count_dead_letters(status)) == (0, 1)  # type: ignore[arg-type]

            store.add([replace(LETTER, reason=status, answer=f"HTTP 400\n{status}")])

            (letter,) = store.dead_letters()
            assert (letter.status, letter.reason, letter.answer) == ("dead", status, f"HTTP 400\n{status}")

    def test_letters_are_listed_oldest_first_and_chosen(self, store: StateStore) -> None:
        """By status, by destination, up to a limit."""
        letters = [replace(LETTER, id=f"id-{number}", destination="ab"[number % 2]) for number in range(6)]
        store.add(letters)
        assert store.mark_letters(LetterFilter(id="id-0"), "replay") == 1
        assert store.mark_letters(LetterFilter(id="no such id"), "replay") == 0

        def ids(**chosen: object) -> list[str]:
            return [letter.id for letter in store.dead_letters(**chosen)]  # type: ignore[arg-type]

        assert ids() == ["id-1", "id-2", "id-3", "id-4", "id-5"]
        assert ids(status=None, limit=2) == ["id-0", "id-1"]
        assert ids(status=None, destination="a") == ["id-0", "id-2", "id-4"]
        assert ids(status="replay") == ["id-0"]
        assert [store.drop_letters(LetterFilter(id=id)) for id in ("id-0", "id-3", "no such id")] == [1, 1, 0]
        assert ids(status=None) == ["id-1", "id-2", "id-4", "id-5"]

    def test_nothing_to_add_is_fine(self, store: StateStore) -> None:
        """Empty is not an error."""
        store.add([])
        store.save_cursors({})
        assert store.drop_letters(LetterFilter()) == 0

    def test_the_same_gap_is_recorded_once(self, store: StateStore) -> None:
        """Restarted a hundred times over a lost slot we make one gap; of two tables truncated at once, two."""
        for _ in range(2):
            store.record_gap(Gap(LSN(1), None, "slot_lost", "removed"))
            for table in "ab":
                store.record_gap(Gap(LSN(1), LSN(1), "truncate", table))

        assert [gap.detail for gap in store.gaps()] == ["removed", "a", "b"]

    def test_a_letter_is_kept_whatever_its_text(self, store: StateStore) -> None:
        """A vendor's answer may hold what no database takes as text; the letter is not lost for that."""
        store.add([replace(LETTER, reason="a\0b", event="c\ud800d", answer="\0")])

        (letter,) = store.dead_letters()
        assert (letter.reason, letter.event, letter.payload) == ("a\ufffdb", "c?d", LETTER.payload)
        assert letter.answer == "\ufffd"

    def test_a_letter_is_marked_at_one_destination_only(self, store: StateStore) -> None:
        """The same event may be replayed at one and refused again by another."""
        store.add([LETTER, replace(LETTER, destination="hook")])
        store.mark_letters(LetterFilter(id=LETTER.id, destination="hook"), "replayed")

        assert [(letter.destination, letter.status) for letter in store.dead_letters(status=None)] == [
            ("posthog", "dead"),
            ("hook", "replayed"),
        ]

    def test_one_at_a_time_holds_it(self, store: StateStore, url: str) -> None:
        """The second is refused with a remedy; others may still read and mark."""
        other = self.again(url)
        try:
            with store.exclusive():
                assert other.is_held()
                with pytest.raises(StateError, match=r"held by .*at a time may use it"), other.exclusive():
                    pass
                other.add([LETTER])
            assert not other.is_held()
            with other.exclusive():
                assert store.is_held()
        finally:
            other.close()

    def test_many_threads_may_use_it(self, store: StateStore) -> None:
        """Every delivery thread adds letters while the loop saves positions."""

        def work(name: str) -> None:
            for number in range(20):
                store.add([replace(LETTER, id=f"{name}-{number}")])
                store.save_cursors({name: Cursor(LSN(number))})

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert store.count_dead_letters("dead") == 80
        assert store.cursors() == {name: Cursor(LSN(19)) for name in "abcd"}

    def test_two_may_open_a_new_store_at_once(self, url: str) -> None:
        """`run` and `status` started together make one schema."""
        opened: list[StateStore] = []
        threads = [threading.Thread(target=lambda: opened.append(open_state(url))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert [store.cursors() for store in opened] == [{}] * 6
        for store in opened:
            store.close()

    def test_after_closing_it_says_so(self, store: StateStore) -> None:
        """Closing twice is harmless; using it then is a StateError and nothing else."""
        store.close()
        store.close()

        with pytest.raises(StateError):
            store.cursors()

    # Choosing among dead letters -------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("chosen", "found"),
        [
            ({}, "1234"),
            ({"id": "id-2"}, "2"),
            ({"status": "dead"}, "13"),
            ({"is_open": True}, "123"),
            ({"destination": "hook"}, "24"),
            ({"destination": ""}, "3"),
            ({"kind": "rule"}, "3"),
            ({"rule": "users.insert"}, "13"),
            ({"event": "sign*"}, "12"),
            ({"table": "users"}, "12"),
            ({"table": "public.users"}, "12"),
            ({"table": "ers"}, ""),
            ({"since": "2026-01-02T00:00:00.000Z"}, "234"),
            ({"until": "2026-01-02T00:00:00.000Z"}, "1"),
            ({"since": "2026-01-02T00:00:00.000Z", "until": "2026-01-03T00:00:00.000Z"}, "2"),
            ({"reason": "too lar"}, "1"),
            ({"reason": "Too"}, ""),
            ({"reason": "100%"}, "4"),
            ({"destination": "hook", "is_open": True, "event": "*up"}, "2"),
        ],
    )
    def test_a_filter_finds_what_fits_all_of_it(self, store: StateStore, chosen: dict[str, str], found: str) -> None:
        """The same letters are listed, counted, marked and dropped."""
        store.add(
            [
                replace(LETTER, id="id-1", created_at="2026-01-01T00:00:00.000Z"),
                replace(
                    LETTER,
                    id="id-2",
                    destination="hook",
                    rule="",
                    event="sign_up",
                    reason="400",
                    created_at="2026-01-02T00:00:00.000Z",
                ),
                replace(
                    LETTER,
                    id="id-3",
                    destination="",
                    kind="rule",
                    event="",
                    table="public.orders",
                    reason="division by zero",
                    created_at="2026-01-03T00:00:00.000Z",
                ),
                replace(
                    LETTER,
                    id="id-4",
                    destination="hook",
                    rule="orders.update",
                    event="Signup",
                    table="shop.orders",
                    reason="100% wrong",
                    created_at="2026-01-04T00:00:00.000Z",
                ),
            ]
        )
        store.mark_letters(LetterFilter(id="id-2"), "replay")
        store.mark_letters(LetterFilter(id="id-4"), "replayed")
        chosen_letters = LetterFilter(**chosen)  # type: ignore[arg-type]
        ids = [f"id-{number}" for number in found]

        assert [letter.id for letter in store.find_letters(chosen_letters)] == ids
        assert store.count_letters(chosen_letters) == len(ids)
        assert store.drop_letters(chosen_letters) == len(ids)
        assert {letter.id for letter in store.dead_letters(status=None)} == {f"id-{n}" for n in "1234"} - {*ids}

    @pytest.mark.parametrize(
        "glob",
        ["*", "a", "a*", "*b", "a?c", "?", "[ab]*", "[!a]*", "a.c", "a%", "a_c", "(a|b)", r"a\c", "***", "$^", "Ω*"],
    )
    def test_a_glob_is_a_shells(self, store: StateStore, glob: str) -> None:
        """Case and all; no character means something to the database that it does not mean to a shell."""
        names = ["a", "b", "A", "ab", "abc", "a.c", "a%c", "a_c", "a\\c", "a\nc", "(a|b)", "$^", "Ωmega", ""]
        store.add([replace(LETTER, id=str(number), event=name) for number, name in enumerate(names)])

        found = [letter.event for letter in store.find_letters(LetterFilter(event=glob))]

        assert found == [name for name in names if fnmatchcase(name, glob)]

    def test_many_letters_are_read_and_changed_some_at_a_time(
        self, store: StateStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A page in memory, a piece in a transaction; oldest first, up to a limit, each once, and told on the way."""
        monkeypatch.setattr(store_module, "PAGE", 7)
        monkeypatch.setattr(store_module, "PIECE", 5)
        store.add([replace(LETTER, id=f"{n:03}", destination="ab"[n % 2]) for n in range(50)])
        at_a, told = LetterFilter(destination="a"), list[int]()

        assert [letter.id for letter in store.find_letters(LetterFilter())] == [f"{n:03}" for n in range(50)]
        assert [letter.id for letter in store.find_letters(at_a, limit=8)] == [f"{n:03}" for n in range(0, 16, 2)]
        assert store.mark_letters(at_a, "replay", limit=12, told=told.append) == 12
        assert told == [5, 5, 2]
        assert [letter.id for letter in store.dead_letters(status="replay")] == [f"{n:03}" for n in range(0, 24, 2)]
        assert store.drop_letters(at_a) == 25
        assert store.drop_letters(LetterFilter(), limit=5) == 5
        assert [letter.id for letter in store.dead_letters(status=None)] == [f"{n:03}" for n in range(11, 50, 2)]

    def test_what_comes_while_letters_are_dropped_is_not_meant(self, store: StateStore) -> None:
        """A person has agreed to those there were."""
        store.add([LETTER])
        last = store.last_letter()
        store.add([replace(LETTER, id="id-2")])

        assert store.drop_letters(LetterFilter(up_to=last)) == 1
        assert [letter.id for letter in store.dead_letters()] == ["id-2"]

    def test_the_beginning_of_an_id_finds_it(self, store: StateStore) -> None:
        """Among those a filter leaves; two are enough to know that it fits several."""
        store.add([replace(LETTER, id=id, destination=at) for id, at in (("aa1", "x"), ("aa2", "y"), ("aa2", "x"))])
        store.add([replace(LETTER, id="ab%")])

        assert store.ids_beginning("aa", LetterFilter()) == ["aa1", "aa2"]
        assert store.ids_beginning("aa", LetterFilter(destination="y")) == ["aa2"]
        assert store.ids_beginning("ab%", LetterFilter()) == ["ab%"]
        assert store.ids_beginning("a%", LetterFilter()) == []

    def test_letters_are_counted_by_destination(self, store: StateStore) -> None:
        """With the time of the oldest of each."""
        days = [f"2026-01-0{day}T00:00:00.000Z" for day in (3, 1, 2)]
        store.add([replace(LETTER, id=str(number), created_at=day) for number, day in enumerate(days)])
        store.add([replace(LETTER, id="r", destination="", kind="rule", created_at=days[0])])
        store.mark_letters(LetterFilter(id="0"), "replay")

        assert store.letter_counts() == [
            LetterCount("", "rule", "dead", 1, days[0]),
            LetterCount("posthog", "rejected", "dead", 2, days[1]),
            LetterCount("posthog", "rejected", "replay", 1, days[0]),
        ]

    def test_only_what_still_waits_to_be_replayed_has_been(self, store: StateStore) -> None:
        """Not what was refused again, or dropped, meanwhile."""
        letters = [replace(LETTER, id=id) for id in "abc"]
        store.add(letters)
        store.mark_letters(LetterFilter(), "replay")
        store.add([replace(letters[1], reason="again")])
        store.drop_letters(LetterFilter(id="c"))

        assert store.finish_replay(letters) == 1
        assert [(letter.id, letter.status) for letter in store.dead_letters(status=None)] == [
            ("a", "replayed"),
            ("b", "dead"),
        ]

    # The bound -------------------------------------------------------------------------------------

    def test_at_the_bound_no_more_are_taken(self, url: str) -> None:
        """What was given first is stored as far as there is room; one that is there already needs none."""
        store = open_state(url, LetterBound(3, "hold"))
        try:
            store.add([replace(LETTER, id=id) for id in "ab"])
            with pytest.raises(DeadLettersFull, match=r"holds 3 dead letters.*nothing is lost.*dlq drop") as full:
                store.add([replace(LETTER, id=id) for id in "abcdef"])
            assert full.value.stored == 3
            store.add([replace(LETTER, id=id) for id in "cba"])
            with pytest.raises(DeadLettersFull) as full:
                store.add([replace(LETTER, id="d")])
            assert full.value.stored == 0

            with closing(open_state(url)) as person:
                person.drop_letters(LetterFilter(id="a"))
            store.add([replace(LETTER, id="d")])
            assert [letter.id for letter in store.dead_letters()] == ["b", "c", "d"]
            assert store.gaps() == []
        finally:
            store.close()

    def test_more_than_the_bound_at_once_are_taken_as_there_is_room(self, url: str) -> None:
        """Whoever holds them keeps the rest and comes again; no letter a person has dropped comes back."""
        left, seen = [replace(LETTER, id=f"{n:02}") for n in range(20)], list[str]()
        with closing(open_state(url, LetterBound(3, "hold"))) as store:
            while left:
                try:
                    store.add(left)
                    left = []
                except DeadLettersFull as full:
                    left = left[full.stored :]
                seen += [letter.id for letter in store.dead_letters()]
                assert 0 < store.drop_letters(LetterFilter()) <= 3
        assert seen == [f"{n:02}" for n in range(20)]

    @pytest.mark.parametrize("at_bound", ["hold", "shed"])
    def test_those_that_were_replayed_make_room_first(self, url: str, at_bound: str) -> None:
        """They were delivered: no gap."""
        with closing(open_state(url, LetterBound(3, at_bound))) as store:  # type: ignore[arg-type]
            store.add([replace(LETTER, id=id) for id in "abc"])
            store.mark_letters(LetterFilter(id="b"), "replayed")
            store.add([replace(LETTER, id="d")])

            assert [letter.id for letter in store.dead_letters(status=None)] == ["a", "c", "d"]
            assert store.gaps() == []

    def test_a_bound_that_was_lowered_holds_at_once(self, url: str) -> None:
        """What is there stays under `hold`, and goes under `shed` with the next letter."""
        with closing(open_state(url)) as store:
            store.add([replace(LETTER, id=f"{n}") for n in range(9)])
        with closing(open_state(url, LetterBound(3, "hold"))) as store:
            with pytest.raises(DeadLettersFull):
                store.add([replace(LETTER, id="new")])
            assert store.count_dead_letters("dead") == 9
        with closing(open_state(url, LetterBound(3, "shed"))) as store:
            store.add([replace(LETTER, id="new")])
            assert [letter.id for letter in store.dead_letters()] == ["7", "8", "new"]

    def test_what_is_shed_is_one_gap_a_destination_that_grows(self, url: str) -> None:
        """From the first to the last that went, and how many; a million of them are no million gaps."""
        letters = [
            replace(LETTER, id=f"{n:02}", destination="" if n % 2 else "hook", commit_lsn=LSN(100 + n))
            for n in range(20)
        ]
        with closing(open_state(url, LetterBound(4, "shed"))) as store:
            store.add(letters[:3])
            store.add(letters[3:14])
            for letter in letters[14:]:
                store.add([letter])

            assert [letter.id for letter in store.dead_letters()] == ["16", "17", "18", "19"]
            assert [(gap.from_lsn, gap.to_lsn, gap.events, gap.reason) for gap in store.gaps()] == [
                (101, 115, 8, "dead_letters_shed"),
                (100, 114, 8, "dead_letters_shed"),
            ]
            assert ["rule errors" in gap.detail for gap in store.gaps()] == [True, False]

    def test_shedding_is_never_stuck(self, url: str) -> None:
        """All that is kept waits to be sent again, behind the event that is refused now."""
        with closing(open_state(url, LetterBound(2, "shed"))) as store:
            store.add([replace(LETTER, id=id) for id in "ab"])
            store.mark_letters(LetterFilter(), "replay")
            store.add([replace(LETTER, id="c")])

            assert [letter.id for letter in store.dead_letters(status=None)] == ["b", "c"]
            assert [gap.events for gap in store.gaps()] == [1]

    def test_killed_while_it_sheds_it_has_shed_nothing(self, url: str) -> None:
        """The gap, the letters that go and those that come are one transaction; what is done again counts once."""
        with closing(open_state(url)) as store:
            store.add([replace(LETTER, id=id) for id in "abc"])

        killed = subprocess.run(
            [sys.executable, "-c", SHED, url],
            env={**os.environ, "WAL_TRACKER_FAILPOINTS": "dead_letters_shed=kill"},
            capture_output=True,
            cwd=ROOT,
        )

        assert killed.returncode == -signal.SIGKILL, killed.stderr
        with closing(open_state(url)) as store:
            assert [letter.id for letter in store.dead_letters()] == ["a", "b", "c"]
            assert store.gaps() == []
        subprocess.run([sys.executable, "-c", SHED, url], check=True, capture_output=True, cwd=ROOT)
        with closing(open_state(url)) as store:
            assert [letter.id for letter in store.dead_letters()] == ["c", "d", "e"]
            assert [gap.events for gap in store.gaps()] == [2]

    # A store of the first release ------------------------------------------------------------------

    def make_version_1(self, url: str, *statements: str) -> None:
        """Make the store as version 1 made it, and run statements in it."""
        raise NotImplementedError

    def test_a_store_of_version_1_is_brought_up_to_this_one(self, url: str) -> None:
        """Nothing in it is lost, and everything new can be written."""
        self.make_version_1(url, *VERSION_1)

        with closing(open_state(url)) as store:
            assert store.identity() == SourceIdentity("1", 2, "shop", "slot")
            assert store.cursors() == {"hook": Cursor(LSN(10), {"offset": 5})}
            (letter,) = store.dead_letters()
            assert (letter.id, letter.answer, letter.payload) == ("old", None, b"{}")
            (gap,) = store.gaps()
            assert (gap.reason, gap.events) == ("slot_lost", None)
            store.add([LETTER])
            store.record_gap(Gap(LSN(1), LSN(2), "shed", "why", events=3))

        with closing(open_state(url)) as again:
            assert again.dead_letters()[1].answer == LETTER.answer
            assert again.gaps()[1].events == 3

    def test_many_may_open_a_store_of_version_1_at_once(self, url: str) -> None:
        """It is brought up once, in one piece."""
        self.make_version_1(url, *VERSION_1)
        counts: list[int] = []

        def work() -> None:
            with closing(open_state(url)) as store:
                counts.append(store.count_dead_letters("dead"))

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert counts == [1] * 6


SHED = """
import sys
from dataclasses import replace
from tests.support.state import LETTER
from wal_tracker.state import open_state
from wal_tracker.state.base import LetterBound
open_state(sys.argv[1], LetterBound(3, "shed")).add([replace(LETTER, id=id) for id in "de"])
"""

VERSION_1 = (
    "insert into source values (1, '1', 2, 'shop', 'slot')",
    """insert into position values ('hook', '0/A', '{"offset": 5}')""",
    """insert into dead_letter (id, destination, kind, status, rule, event, relation, commit_lsn, commit_time, reason,
                                payload, created_at)
       values ('old', 'hook', 'rejected', 'dead', '', 'e', 'public.t', '0/1', 'then', 'why', '{}',
               '2026-01-01T00:00:00.000Z')""",
    "insert into gap (from_lsn, to_lsn, reason, detail, at) values ('0/1', null, 'slot_lost', 'why', 'then')",
)
"""What a run of version 1 left behind."""
