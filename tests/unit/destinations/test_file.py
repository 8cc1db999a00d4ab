"""The file destination: no torn line and no event twice, whatever ends the process or touches the file."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from wal_tracker.errors import DestinationError, DestinationRefusedUs, DestinationUnavailable
from wal_tracker.model import Deliverable
from wal_tracker.testing import make_event
from wal_tracker_destinations.file import File


def events(*numbers: int) -> list[Deliverable]:
    return [make_event(number) for number in numbers]


def numbers(path: Path) -> list[int]:
    """What the file holds; fails on a torn line."""
    return [json.loads(line)["properties"]["number"] for line in path.read_text().splitlines()]


def built(path: Path, **options: Any) -> File:
    return File("file", File.Config(path=str(path), **options))


def opened(path: Path, mark: Any = None, **options: Any) -> File:
    file = built(path, **options)
    file.open(mark)
    return file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def size_of_one() -> int:
    return len(make_event(1).to_json()) + 1


def test_each_event_is_a_line(path: Path) -> None:
    """Exactly the event's JSON."""
    file = opened(path)

    file.deliver(events(1, 2))
    file.close()

    assert path.read_bytes() == make_event(1).to_json() + b"\n" + make_event(2).to_json() + b"\n"


def test_what_was_written_after_the_stored_mark_is_taken_back(path: Path) -> None:
    """It comes again, and would be there twice."""
    file = opened(path)
    mark = file.deliver(events(1, 2)).mark
    file.deliver(events(3, 4))
    file.close()

    again = opened(path, mark)
    again.deliver(events(3, 4, 5))
    again.close()

    assert numbers(path) == [1, 2, 3, 4, 5]


def test_a_torn_line_after_the_mark_is_taken_back(path: Path) -> None:
    """A power cut in the middle of a write."""
    file = opened(path)
    mark = file.deliver(events(1)).mark
    file.close()
    with path.open("ab") as torn:
        torn.write(make_event(2).to_json()[:40])

    opened(path, mark).close()

    assert numbers(path) == [1]


def test_a_crash_in_the_first_batch_ever_leaves_what_was_there_before(path: Path) -> None:
    """`open` gives the mark of the file as it found it, and that is stored before the first batch."""
    path.write_bytes(make_event(1).to_json() + b"\n")
    file = built(path)
    mark = file.open(None)
    file.deliver(events(2, 3))
    file.close()

    opened(path, mark).close()

    assert numbers(path) == [1]


def test_a_full_file_is_set_aside_between_batches(path: Path) -> None:
    """Numbered as they come; none grows beyond what was said."""
    file = opened(path, max_bytes=2 * size_of_one())
    for number in range(1, 6):
        file.deliver(events(number))
    file.close()

    assert numbers(path.with_name("events.jsonl.000001")) == [1, 2]
    assert numbers(path.with_name("events.jsonl.000002")) == [3, 4]
    assert numbers(path) == [5]
    assert file.limits.max_batch_bytes == 2 * size_of_one()


def test_an_old_file_is_set_aside_with_the_next_batch(path: Path) -> None:
    """Age is the file's, also across a restart."""
    now = 1000.0
    file = File("file", File.Config(path=str(path), max_age_s=60), clock=lambda: now)
    file.open(None)
    mark = file.deliver(events(1)).mark
    file.close()

    now = 1059.0
    file = File("file", File.Config(path=str(path), max_age_s=60), clock=lambda: now)
    file.open(mark)
    file.deliver(events(2))
    now = 1061.0
    file.deliver(events(3))
    file.close()

    assert numbers(path.with_name("events.jsonl.000001")) == [1, 2]
    assert numbers(path) == [3]


def test_rotations_after_the_mark_are_undone(path: Path) -> None:
    """The crash came between them and the next stored position; all that came again would be there twice."""
    options = {"max_bytes": 2 * size_of_one()}
    file = opened(path, **options)
    mark = file.deliver(events(1)).mark
    for number in (2, 3, 4, 5):
        file.deliver(events(number))
    file.close()
    assert path.with_name("events.jsonl.000002").exists()

    again = opened(path, mark, **options)
    assert numbers(path) == [1]
    for number in (2, 3, 4, 5):
        again.deliver(events(number))
    again.close()

    assert numbers(path.with_name("events.jsonl.000001")) == [1, 2]
    assert numbers(path.with_name("events.jsonl.000002")) == [3, 4]
    assert numbers(path) == [5]


def test_a_crash_between_the_two_steps_of_a_rotation_is_undone(path: Path) -> None:
    """The file has its new name, and nothing has the old one yet."""
    file = opened(path)
    mark = file.deliver(events(1)).mark
    file.close()
    path.rename(path.with_name("events.jsonl.000001"))

    opened(path, mark).close()

    assert numbers(path) == [1]
    assert not path.with_name("events.jsonl.000001").exists()


def test_a_rotation_before_the_mark_stands(path: Path) -> None:
    """What is finished is never touched again."""
    options = {"max_bytes": size_of_one()}
    file = opened(path, **options)
    file.deliver(events(1))
    mark = file.deliver(events(2)).mark
    file.deliver(events(3))
    file.close()

    opened(path, mark, **options).close()

    assert numbers(path.with_name("events.jsonl.000001")) == [1]
    assert numbers(path) == [2]


def test_a_finished_file_is_never_overwritten(path: Path) -> None:
    """Also when it was compressed or is from an earlier life."""
    path.with_name("events.jsonl.000007.gz").write_bytes(b"kept")
    file = opened(path, max_bytes=size_of_one())
    file.deliver(events(1))
    file.deliver(events(2))
    file.close()

    assert numbers(path.with_name("events.jsonl.000008")) == [1]


def test_a_file_moved_away_while_we_run_is_followed_by_a_new_one(path: Path) -> None:
    """As logrotate does with `create`."""
    file = opened(path)
    file.deliver(events(1))
    path.rename(path.with_name("events.jsonl.old"))
    mark = file.deliver(events(2)).mark
    file.close()
    opened(path, mark).close()

    assert numbers(path.with_name("events.jsonl.old")) == [1]
    assert numbers(path) == [2]


@pytest.fixture(params=[True, False], ids=["proc", "no proc"])
def maybe_proc(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a kernel that tells an open file's name, and with one that does not."""

    def refused(_: str) -> str:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    if not request.param:
        monkeypatch.setattr(os, "readlink", refused)


@pytest.mark.usefixtures("maybe_proc")
@pytest.mark.parametrize("how", ["moved", "removed", "replaced", "moved with its directory"])
def test_whatever_becomes_of_the_name_the_next_batch_is_found_under_it(path: Path, tmp_path: Path, how: str) -> None:
    """Noticed before it is written, with the kernel's help or without."""
    place = tmp_path / "place"
    place.mkdir()
    file = opened(place / "events.jsonl")
    file.deliver(events(1))
    file.deliver(events(2))
    if how == "moved":
        (place / "events.jsonl").rename(place / "events.jsonl.old")
    elif how == "removed":
        (place / "events.jsonl").unlink()
    elif how == "replaced":
        path.write_text("")
        path.replace(place / "events.jsonl")
    else:
        place.rename(tmp_path / "before")
        place.mkdir()
    file.deliver(events(3))
    file.close()

    assert numbers(place / "events.jsonl") == [3]


@pytest.mark.usefixtures("maybe_proc")
def test_a_file_that_is_gone_and_cannot_be_made_anew_takes_nothing(tmp_path: Path) -> None:
    """However often it is tried: what is written to a file without a name is lost."""
    place = tmp_path / "place"
    place.mkdir()
    file = opened(place / "events.jsonl")
    file.deliver(events(1))
    file.deliver(events(2))
    (place / "events.jsonl").unlink()
    place.rmdir()
    for _ in range(3):
        with pytest.raises(DestinationRefusedUs, match="No such file"):
            file.deliver(events(3))
    place.mkdir()
    file.deliver(events(3))
    file.close()

    assert numbers(place / "events.jsonl") == [3]


def test_a_rotation_that_cannot_make_the_new_file_leaves_the_finished_one_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full of names for a while; the batch comes when it is not."""
    file = opened(path, max_bytes=size_of_one())
    file.deliver(events(1))
    real = os.open

    def full(place: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(place, flags, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        for _ in range(3):
            with pytest.raises(DestinationUnavailable):
                file.deliver(events(2))
    file.deliver(events(2))
    file.close()

    assert numbers(path.with_name(f"{path.name}.000001")) == [1]
    assert numbers(path) == [2]


def test_a_file_that_stays_in_its_place_is_not_asked_for_its_times(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time would make every commit of a server on the same kernel write the times of its WAL file as well."""
    asked: list[object] = []
    file = opened(path)
    for name in ("stat", "fstat"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, real=real, **more: (asked.append(given), real(*given, **more))[1])
    for number in range(100):
        file.deliver(events(number))
    file.close()

    assert len(asked) < 10
    assert numbers(path) == [*range(100)]


def test_a_file_moved_away_while_we_were_down_is_told_and_left_alone(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is somebody else's now; cutting it could spoil what they made of it."""
    file = opened(path)
    mark = file.deliver(events(1)).mark
    file.deliver(events(2))
    file.close()
    path.rename(path.with_name("elsewhere"))

    with caplog.at_level(logging.WARNING):
        opened(path, mark).close()

    assert numbers(path.with_name("elsewhere")) == [1, 2]
    assert numbers(path) == []
    assert "moved away or replaced" in caplog.text


def test_a_file_shortened_and_grown_again_is_told_and_not_cut(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As `copytruncate` does: the offset of the mark means nothing any more, and would fall inside a line."""
    file = opened(path)
    mark = file.deliver(events(1, 2)).mark
    os.truncate(path, 0)
    file.deliver(events(3, 4, 5, 6, 7))
    file.close()

    with caplog.at_level(logging.WARNING):
        opened(path, mark).close()

    assert numbers(path) == [3, 4, 5, 6, 7]
    assert "shortened or rewritten" in caplog.text


def test_a_file_put_back_from_a_copy_is_recognised(path: Path) -> None:
    """Its content tells, not its inode."""
    file = opened(path)
    mark = file.deliver(events(1, 2)).mark
    file.deliver(events(3))
    file.close()
    content = path.read_bytes()
    keep = path.with_name("keeps-the-inode")
    path.rename(keep)
    path.write_bytes(content)

    opened(path, mark).close()

    assert numbers(path) == [1, 2]


def test_a_line_somebody_else_left_unfinished_is_not_joined_with_ours(path: Path) -> None:
    """Theirs is broken already; ours stays whole."""
    path.write_bytes(b'{"theirs":')
    file = opened(path)
    file.deliver(events(1))
    file.close()

    first, second = path.read_text().splitlines()
    assert first == '{"theirs":'
    assert json.loads(second)["properties"]["number"] == 1


def test_a_full_disk_leaves_no_part_of_the_batch_and_passes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room may be made; until then the file ends with a whole line."""
    file = opened(path)
    file.deliver(events(1))
    write = os.write

    def full(fd: int, data: Any) -> int:
        if len(data) <= 30:
            raise OSError(errno.ENOSPC, "no space")
        return write(fd, bytes(data)[: len(data) - 30])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DestinationUnavailable, match="make room"):
        file.deliver(events(2))
    assert numbers(path) == [1]
    monkeypatch.setattr(os, "write", write)
    file.deliver(events(2))
    file.close()

    assert numbers(path) == [1, 2]


def test_a_batch_counts_only_when_it_is_on_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed fsync takes the batch back: the kernel may have dropped it."""
    file = opened(path)

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "lost")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DestinationUnavailable):
        file.deliver(events(1))
    file.close()

    assert path.read_bytes() == b""


def test_an_error_that_does_not_pass_stops(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that became read-only needs a person."""
    file = opened(path)

    def fail(fd: int, data: Any) -> int:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(DestinationRefusedUs, match="writable file system"):
        file.deliver(events(1))
    file.close()


def test_two_writers_of_one_file_are_refused(path: Path) -> None:
    """A crash of one would cut the lines of the other."""
    first = opened(path)
    with pytest.raises(DestinationError, match="path of its own"):
        opened(path)
    first.close()

    opened(path).close()


def test_a_second_writer_undoes_nothing(path: Path) -> None:
    """It finds the lock before it touches a rotation."""
    options = {"max_bytes": size_of_one()}
    file = opened(path, **options)
    mark = file.deliver(events(1)).mark
    file.deliver(events(2))

    with pytest.raises(DestinationError):
        opened(path, mark, **options)
    file.close()

    assert numbers(path.with_name("events.jsonl.000001")) == [1]
    assert numbers(path) == [2]


def test_a_missing_directory_is_told_with_its_remedy(tmp_path: Path) -> None:
    """At start-up."""
    with pytest.raises(DestinationError, match="create its directory"):
        opened(tmp_path / "nowhere" / "events.jsonl")


def test_what_is_no_ordinary_file_is_refused(tmp_path: Path) -> None:
    """A pipe cannot be taken back to a mark."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    with pytest.raises(DestinationError, match="not an ordinary file"):
        opened(fifo)
    with pytest.raises(DestinationError, match="name a file"):
        opened(tmp_path)


@pytest.mark.parametrize("options", [{"path": ""}, {"path": "x", "max_bytes": 0}, {"path": "x", "max_age_s": -1.0}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    """Before anything is written."""
    with pytest.raises(ValueError, match="must"):
        File.Config(**options)
