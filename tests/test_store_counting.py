"""Tests for counting lines: what the writer or an earlier process has counted is not read again, and never believed
of another file.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.checkpoint import Checkpoint
from pipeline.counts import add_counts
from pipeline.files import CHECKPOINT, COUNTED, COUNTS, Extent
from pipeline.store.keeping import counting
from pipeline.store.keeping.counting import Counter
from tests.builders import tick_line, tick_lines

NAME = "market_data_2025-10-01.jsonl"


@pytest.fixture
def path(tmp_path):
    """Return the path of a tick file in a data folder with a state folder."""
    (tmp_path / ".mds").mkdir()
    return tmp_path / NAME


def count(counter, path):
    """Return the count, and how many bytes were read for it."""
    read: list[int] = []
    return counter.count(path, read.append), sum(read)


def tell(path, data, lines=None):
    """Write a checkpoint that has this much of a file."""
    extent = Extent(len(data), data.count(b"\n") if lines is None else lines)
    (path.parent / ".mds" / CHECKPOINT).write_bytes(Checkpoint({path.name: extent}).encode())


def test_counting_again_reads_what_was_appended(path):
    """The whole file once, then only what is new, and nothing where nothing is."""
    counter = Counter(path.parent)
    path.write_bytes(tick_lines(1, 1000))
    found = [count(counter, path)]
    for seq in (1001, 1002):
        with path.open("ab") as file:
            file.write(tick_line(seq))
        found.append(count(counter, path))
    found.append(count(counter, path))
    sizes = [len(tick_lines(1, 1000)), len(tick_line(1001)), len(tick_line(1002)), 0]
    assert found == list(zip([1000, 1001, 1002, 1002], sizes, strict=True))


def test_what_the_writer_has_counted_is_not_read(path):
    """A checkpoint's count holds up to its size; the lines behind it are counted, one that is being written is not."""
    path.write_bytes(tick_lines(1, 12) + tick_line(13)[:20])
    tell(path, tick_lines(1, 10))
    rest = len(tick_lines(11, 12)) + 20
    assert count(Counter(path.parent), path) == (12, rest)
    assert Counter(path.parent).unread(path) == rest


def test_what_has_left_the_checkpoint_is_known_by_the_index(path):
    """Nothing is read of a file that has the size it had then; of one that has not, all of it is."""
    path.write_bytes(tick_lines(1, 10))
    add_counts(path.parent, path.parent / ".mds", {NAME: Extent(len(tick_lines(1, 10)), 10)})
    assert count(Counter(path.parent), path) == (10, 0)
    with path.open("ab") as file:
        file.write(tick_line(11))
    assert count(Counter(path.parent), path) == (11, len(tick_lines(1, 11)))


@pytest.mark.parametrize("name", [CHECKPOINT, COUNTS, COUNTED])
@pytest.mark.parametrize("content", [b"", b"\0" * 9, b"[]", b"{}", b'{"version":1,"crc32":0,"body":"{}"}', None])
def test_without_what_was_remembered_the_file_is_read(path, name, content):
    """Rubbish, nothing or a folder in its place: it is counted all the same, and what is damaged stays as it is."""
    remembered = path.parent / ".mds" / name
    if content is None:
        remembered.mkdir()
    else:
        remembered.write_bytes(content)
    path.write_bytes(tick_lines(1, 10))
    assert count(Counter(path.parent), path) == (10, len(tick_lines(1, 10)))
    assert remembered.is_dir() if content is None else remembered.read_bytes() == content


def test_a_checkpoint_of_an_older_program_has_no_counts(path):
    """The file is read, then."""
    data = tick_lines(1, 10)
    path.write_bytes(data)
    (path.parent / ".mds" / CHECKPOINT).write_bytes(Checkpoint({NAME: Extent(len(data), None)}).encode())
    assert count(Counter(path.parent), path) == (10, len(data))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(tick_lines(1, 2), id="cut"),
        pytest.param(tick_lines(101, 150), id="longer"),
        pytest.param(tick_lines(1, 10).replace(b"\n", b"\n\n", 3), id="longer by a little"),
        pytest.param(b"", id="empty"),
    ],
)
@pytest.mark.parametrize("who", ["this process", "the checkpoint", "the index", "an earlier process"])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_not_what_it_was_is_counted_anew(path, content, who, replaced, monkeypatch):
    """Whoever has counted what was there before: the count is that of the lines it has now."""
    monkeypatch.setattr(counting, "SOON_READ_BYTES", 0)
    data = tick_lines(1, 10)
    path.write_bytes(data)
    counter = Counter(path.parent)
    if who == "this process":
        assert counter.count(path) == 10
    elif who == "the checkpoint":
        tell(path, data)
    elif who == "the index":
        add_counts(path.parent, path.parent / ".mds", {NAME: Extent(len(data), 10)})
    else:
        first = Counter(path.parent)
        first.count(path)
        first.save()
    if replaced:
        path.with_suffix(".new").write_bytes(content)
        path.with_suffix(".new").replace(path)
    else:
        path.write_bytes(content)
    assert counter.count(path) == content.count(b"\n")


def test_what_took_much_reading_is_remembered(path, monkeypatch):
    """The next process reads nothing; it is forgotten when the file is gone, and small files are not worth it."""
    monkeypatch.setattr(counting, "SOON_READ_BYTES", 1000)
    remembered = path.parent / ".mds" / COUNTED
    small = path.with_name("market_data_2025-10-02.jsonl")
    path.write_bytes(tick_lines(1, 100))
    small.write_bytes(tick_lines(1, 3))
    first = Counter(path.parent)
    assert (first.known(path), first.known(small)) == (None, 3)
    assert (first.count(path), first.count(small)) == (100, 3)
    first.save()
    assert NAME.encode() in remembered.read_bytes()
    assert small.name.encode() not in remembered.read_bytes()
    assert count(Counter(path.parent), path) == (100, 0)
    assert Counter(path.parent).known(path) == 100

    path.rename(small)
    other = Counter(path.parent)
    other.count(small)
    other.save()
    assert NAME.encode() not in remembered.read_bytes()
    assert [found.name for found in remembered.parent.iterdir()] == [COUNTED]


def test_a_file_elsewhere_is_counted_and_not_remembered(path, tmp_path_factory, monkeypatch):
    """Its name may be that of a day's file: what is known of that one says nothing about it."""
    monkeypatch.setattr(counting, "SOON_READ_BYTES", 0)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / NAME
    for there, last in ((path, 10), (elsewhere, 20)):
        there.write_bytes(tick_lines(1, last))
    tell(path, tick_lines(1, 10), lines=9)
    counter = Counter(path.parent)
    assert (counter.count(elsewhere), counter.count(path)) == (20, 9)
    counter.save()
    assert not (path.parent / ".mds" / COUNTED).exists()


def test_what_cannot_be_remembered_is_no_error(path, monkeypatch):
    """Counting works, and is done again the next time."""
    monkeypatch.setattr(counting, "SOON_READ_BYTES", 0)
    path.write_bytes(tick_lines(1, 10))
    (path.parent / ".mds").rmdir()
    (path.parent / ".mds").write_bytes(b"")
    counter = Counter(path.parent)
    assert counter.count(path) == 10
    counter.save()
    assert (path.parent / ".mds").read_bytes() == b""


@given(
    steps=st.lists(st.tuples(st.sampled_from(["append", "cut", "look", "tell"]), st.integers(0, 60)), max_size=20),
    block_bytes=st.integers(1, 50),
)
def test_a_count_is_that_of_counting_from_the_start(tmp_path_factory, steps, block_bytes):
    """After any appending and cutting, in lines and within them, whatever the writer tells meanwhile."""
    path = tmp_path_factory.mktemp("count") / NAME
    (path.parent / ".mds").mkdir()
    counter = Counter(path.parent)
    source = tick_lines(1, 100)
    written = 0
    path.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "BLOCK_BYTES", block_bytes)
        for step, size in [*steps, ("look", 0)]:
            if step == "append":
                with path.open("ab") as file:
                    file.write(source[written : written + size])
                written += size
            elif step == "cut":
                with path.open("r+b") as file:
                    file.truncate(max(path.stat().st_size - size, 0))
                (path.parent / ".mds" / CHECKPOINT).unlink(missing_ok=True)  # the writer cuts only what it has not told
            elif step == "tell":
                durable = path.read_bytes()
                tell(path, durable[: durable.rfind(b"\n", 0, size * 50) + 1])
            else:
                assert counter.count(path) == path.read_bytes().count(b"\n")
