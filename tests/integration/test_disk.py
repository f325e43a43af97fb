"""Disks that are full, spools that are full, lost or damaged: said aloud, and nothing else goes wrong."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.config import Config
from pipeline.errors import MdsError
from pipeline.files import tick_file_name
from pipeline.store.parquet.compact import compact
from pipeline.ticks import encode_lines
from tests.integration.conftest import NewService
from tests.integration.kite import Kite, id_of
from tests.integration.service import Service, until
from tests.stored import FIRST, KINDS, tick_at

UNIVERSE = {"primary": [408065, 0x10009], "secondary": [738561, 0x20009]}
TOKENS = {1: 408065, 2: 738561}
INSTRUMENTS = {1: sorted(UNIVERSE["primary"]), 2: sorted(UNIVERSE["secondary"])}

NewDisk = Callable[[int], Path]


@pytest.fixture
def new_disk(tmp_path: Path) -> Iterator[NewDisk]:
    """Makes a small file system of so many MB."""
    mounted: list[Path] = []

    def make(megabytes: int) -> Path:
        folder = tmp_path / f"disk-{len(mounted) + 1}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no mount command here")
        if done.returncode:
            pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave_kb: int) -> Path:
    """Write a file that leaves so much free; return it."""
    usage = os.statvfs(folder)
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, usage.f_bavail * usage.f_frsize - leave_kb * 1024)
    return ballast


def assert_all_stored(service: Service, kite: Kite) -> None:
    """Check that every stream has stored what its one socket was sent, each tick once and in order."""
    stored = {c: [id_of(tick) for tick in ticks] for (c, _), ticks in service.streams().items()}
    assert stored == {c: kite.ids(kite.of(token)[0]["number"]) for c, token in TOKENS.items()}
    service.assert_verified()


@pytest.mark.parametrize(("reserve_mb", "leave_kb"), [(4, 3000), (0, 200)], ids=["reserve", "no-room-at-all"])
def test_a_full_disk_pauses_and_resumes(
    kite: Kite, new_service: NewService, new_disk: NewDisk, reserve_mb: int, leave_kb: int
):
    """Without room the writer says so and takes nothing; with room again all is stored, once, in order, untorn."""
    storage = {"data_dir": str(new_disk(24)), "spool_dir": "spool", "reserve_mb": reserve_mb}
    service = new_service(universe=UNIVERSE, storage=storage)
    kite.load(2000, frame=10)
    service.start()
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"] > 1000, "ticks are stored")
    ballast = fill(service.data_dir, leave_kb)
    paused = service.wait_for(lambda s: s["storage"]["state"] == "paused", "the writer pauses")
    assert paused["storage"]["reason"]
    assert paused["health"]["status"] == "down"
    assert any("not storing" in reason for reason in paused["health"]["reasons"])
    service.wait_for(lambda s: s["metrics"]["total_ticks_pending"] > 3000, "ticks wait in the spools")
    ballast.unlink()
    service.wait_for(lambda s: s["storage"]["state"] == "recording", "the writer resumes")
    kite.tell("pause")
    sent = kite.sent()
    until(lambda: service.stored() == sent, "everything is stored")
    assert service.stop() == 0

    assert_all_stored(service, kite)
    assert service.events("storing_resumed")
    assert service.events("gap") == []


def test_a_full_spool_refuses_frames_aloud(kite: Kite, new_service: NewService):
    """Past storage.spool_max_mb frames are refused: an error, a count, and a gap record when there is room again."""
    service = new_service(universe=UNIVERSE, storage={"spool_max_mb": 1})
    overfill_spools(kite, service)


def test_a_full_file_system_of_the_spool_refuses_frames_aloud(kite: Kite, new_service: NewService, new_disk: NewDisk):
    """The same where the spool's own disk has no room."""
    service = new_service(universe=UNIVERSE, storage={"spool_dir": str(new_disk(2))})
    overfill_spools(kite, service)


def overfill_spools(kite: Kite, service: Service) -> None:
    """Freeze the writer until frames are refused, let it go on, and check what is stored and said."""
    kite.load(60_000, frame=200)  # the spools are full before the writer counts as hung, and is killed
    service.start()
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"] > 1000, "ticks are stored")
    service.send("writer", signal.SIGSTOP)
    full = service.wait_for(lambda s: all(s["connections"][c]["ticks_refused"] for c in "12"), "frames are refused")
    assert all(full["connections"][c]["gap_open"] for c in "12")
    assert "ticks are being lost" in service.errors()
    service.send("writer", signal.SIGCONT)
    until(lambda: {gap["connection_id"] for gap in service.events("gap")} == {1, 2}, "the gaps are on record")
    service.wait_for(lambda s: not any(s["connections"][c]["gap_open"] for c in "12"), "frames are taken again")
    kite.tell("pause")
    status = service.wait_for(
        lambda s: (
            s["metrics"]["total_ticks_received"] + sum(s["connections"][c]["ticks_refused"] for c in "12")
            == kite.sent()
        ),
        "every tick is received or refused",
    )
    assert service.stop() == 0

    report = service.assert_verified()
    assert report["ticks"] == status["metrics"]["total_ticks_received"] < kite.sent()
    for gap in service.events("gap"):
        assert (gap["cause"], gap["instruments"]) == ("spool full", INSTRUMENTS[gap["connection_id"]])
    for (connection_id, _), ticks in service.streams().items():
        sent = kite.ids(kite.of(TOKENS[connection_id])[0]["number"])
        stored = [id_of(tick) for tick in ticks]
        assert stored == sorted(stored)
        assert set(stored) < set(sent)


def crash_with_full_spools(kite: Kite, service: Service, ticks: int = 2000) -> None:
    """Leave ticks of both connections in the spools, and nothing running."""
    kite.load(4000, frame=10)
    service.start()
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"] > 1000, "ticks are stored")
    service.send("writer", signal.SIGSTOP)
    service.wait_for(lambda s: all(s["connections"][c]["ticks_pending"] > ticks for c in "12"), "the spools fill")
    service.kill_all()


def test_a_lost_spool_is_a_gap(kite: Kite, new_service: NewService):
    """Spools that are gone after a crash: a gap record for each connection, no stall, and recording goes on."""
    service = new_service(universe=UNIVERSE)
    crash_with_full_spools(kite, service)
    stored = service.stored()
    shutil.rmtree(service.spool_dir)
    service.start()
    until(lambda: service.stored() > stored + 1000, "recording goes on")
    service.wait_until_live(1, 2)
    assert service.stop() == 0

    gaps = {gap["connection_id"]: gap for gap in service.events("gap", cause="spool lost") if gap["instruments"]}
    assert {c: gap["instruments"] for c, gap in gaps.items()} == INSTRUMENTS
    service.assert_verified()


def test_a_damaged_spool_loses_only_what_is_damaged(kite: Kite, new_service: NewService):
    """Bytes flipped in a segment: the rest is stored, a gap record names the lost numbers, the segment is kept."""
    service = new_service(universe=UNIVERSE)
    crash_with_full_spools(kite, service)
    segment = max((service.spool_dir / "1").glob("*/*.spool"))
    data = bytearray(segment.read_bytes())
    for offset in range(len(data) * 3 // 4, len(data) * 3 // 4 + 200):
        data[offset] ^= 0xFF
    segment.write_bytes(data)
    stored = service.stored()
    service.start()
    until(lambda: service.stored() > stored + 3000, "the rest is stored and recording goes on")
    service.wait_until_live(1, 2)
    assert service.stop() == 0

    (gap,) = service.events("gap", cause="spool damaged")
    assert gap["connection_id"] == 1
    lost = range(gap["first_seq"], gap["last_seq"] + 1)
    ticks = [t for t in service.ticks() if (t["connection_id"], t["epoch"]) == (1, gap["gap_epoch"])]
    numbers = [tick["seq"] for tick in ticks]
    assert numbers == [seq for seq in range(1, numbers[-1] + 1) if seq not in lost]
    sent = kite.ids(kite.of(TOKENS[1])[0]["number"])
    assert [id_of(tick) for tick in ticks] == [sent[seq - 1] for seq in numbers]
    assert [path.suffix for path in (service.spool_dir / "1").iterdir()] == [".damaged"]
    report = service.assert_verified(gaps=1, missing=len(lost))
    assert report["gaps_recorded"] == 1


def test_compaction_on_a_full_disk(new_disk: NewDisk, tmp_path: Path) -> None:
    """One clear line, nothing left behind, the JSONL untouched; with room again it is done."""
    day, data_dir = FIRST.date(), new_disk(8)
    name, lines = tick_file_name(day), encode_lines([tick_at(FIRST, kind) for kind in KINDS]) * 1000
    (data_dir / name).write_bytes(lines)
    config = Config().with_changes(
        storage={"data_dir": data_dir, "reserve_mb": 0}, runtime={"run_dir": tmp_path / "run"}
    )
    ballast = fill(data_dir, 16)
    with pytest.raises(MdsError, match=r"2025-10-01: cannot be compacted: .*No space left on device; the JSONL is"):
        compact(config.resolved(), day)
    assert [path for path in (data_dir / ".mds").rglob("*") if path.is_file()] == []
    assert (data_dir / name).read_bytes() == lines
    ballast.unlink()
    assert compact(config.resolved(), day, delete_source=True).source_deleted
