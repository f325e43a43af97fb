"""A real service begins in the folder of an older version: what that one had spooled is stored, and it goes on."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.files import tick_file_name
from tests.integration.conftest import NewService
from tests.integration.kite import Kite, id_of
from tests.integration.service import until
from tests.recordings.record import DAYS, PRIMARY, SECONDARY
from tests.test_recordings import RECORDINGS, VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_a_service_goes_on_with_what_an_older_version_has_left(
    version: str, kite: Kite, new_service: NewService, tmp_path: Path
) -> None:
    """Each tick of its spools is stored once, what was subscribed is, the gap is on record, and new ticks follow."""
    folder = Path(shutil.copytree(RECORDINGS / version, tmp_path / "service"))
    (folder / "run").chmod(0o700)  # git does not keep it
    sent = set(json.loads((folder / "expected.json").read_text())[str(DAYS[1])])
    service = new_service(folder, universe={"primary": PRIMARY, "secondary": SECONDARY})
    old = service.data_dir / tick_file_name(DAYS[1])
    before = old.read_bytes()
    service.start()
    kite.until_on_the_wire(dict.fromkeys(PRIMARY, "quote"), dict.fromkeys(SECONDARY, "full"))
    kite.load(200, frame=5)
    until(lambda: service.stored() >= len(sent) + 200, "what was spooled is stored, and more")
    kite.tell("pause")
    service.wait_for(lambda s: not s["metrics"]["total_ticks_pending"], "all is stored")
    assert service.stop() == 0

    after = old.read_bytes()
    assert after.startswith(before)
    ids = [id_of(json.loads(line)) for line in after.splitlines()]
    assert len(ids) == len(set(ids)) == len(sent)
    assert set(ids) == sent
    assert service.stored() == len(sent) + kite.sent()
    epochs = service.events("epoch", format=1)
    assert {(e["connection_id"], e["previous_end"]) for e in epochs} == {(1, "killed"), (2, "killed"), (3, "killed")}
    killed = service.events("gap", cause="killed")[1:]  # the first is of the older version itself
    assert {tuple(gap["instruments"]) for gap in killed} == {tuple(sorted(PRIMARY)), tuple(sorted(SECONDARY))}
    assert not any(service.spool_dir.glob("*"))
    service.assert_verified()
    assert service.mds("compact").returncode == 0
    service.assert_verified()
