"""What every state store promises, as a class of tests; a subclass gives the `url` fixture."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from wal_tracker.errors import CheckpointRegression, StateError
from wal_tracker.lsn import LSN
from wal_tracker.state import open_state
from wal_tracker.state.base import Cursor, DeadLetter, Gap, SourceIdentity, StateStore

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
)


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
        """With the new reason."""
        store.add([LETTER])
        for status in ("replay", "replayed"):
            store.set_status([LETTER.id], status)  # type: ignore[arg-type]
            assert (store.count_dead_letters("dead"), store.count_dead_letters(status)) == (0, 1)  # type: ignore[arg-type]

            store.add([replace(LETTER, reason=status)])

            (letter,) = store.dead_letters()
            assert (letter.status, letter.reason) == ("dead", status)

    def test_letters_are_listed_oldest_first_and_chosen(self, store: StateStore) -> None:
        """By status, by destination, up to a limit."""
        letters = [replace(LETTER, id=f"id-{number}", destination="ab"[number % 2]) for number in range(6)]
        store.add(letters)
        store.set_status(["id-0", "no such id"], "replay")

        def ids(**chosen: object) -> list[str]:
            return [letter.id for letter in store.dead_letters(**chosen)]  # type: ignore[arg-type]

        assert ids() == ["id-1", "id-2", "id-3", "id-4", "id-5"]
        assert ids(status=None, limit=2) == ["id-0", "id-1"]
        assert ids(status=None, destination="a") == ["id-0", "id-2", "id-4"]
        assert ids(status="replay") == ["id-0"]
        store.drop(["id-0", "id-3", "no such id"])
        assert ids(status=None) == ["id-1", "id-2", "id-4", "id-5"]

    def test_nothing_to_add_is_fine(self, store: StateStore) -> None:
        """Empty is not an error."""
        store.add([])
        store.save_cursors({})
        store.drop([])

    def test_the_same_gap_is_recorded_once(self, store: StateStore) -> None:
        """Restarted a hundred times over a lost slot we make one gap; of two tables truncated at once, two."""
        for _ in range(2):
            store.record_gap(Gap(LSN(1), None, "slot_lost", "removed"))
            for table in "ab":
                store.record_gap(Gap(LSN(1), LSN(1), "truncate", table))

        assert [gap.detail for gap in store.gaps()] == ["removed", "a", "b"]

    def test_a_letter_is_kept_whatever_its_text(self, store: StateStore) -> None:
        """A vendor's answer may hold what no database takes as text; the letter is not lost for that."""
        store.add([replace(LETTER, reason="a\0b", event="c\ud800d")])

        (letter,) = store.dead_letters()
        assert (letter.reason, letter.event, letter.payload) == ("a\ufffdb", "c?d", LETTER.payload)

    def test_a_letter_is_marked_at_one_destination_only(self, store: StateStore) -> None:
        """The same event may be replayed at one and refused again by another."""
        store.add([LETTER, replace(LETTER, destination="hook")])
        store.set_status([LETTER.id], "replayed", destination="hook")

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
