"""A power cut may take the zeros behind the last record and leave the record: that is a whole log, and it opens."""

from __future__ import annotations

import pytest

from sluicemq.storage import Record
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS
from tests.storage.stories import SMALL, open_log


@pytest.mark.parametrize("body_bytes", range(1, 9))
@pytest.mark.timeout(WAIT_SECONDS)
def test_a_log_whose_file_ends_within_the_last_padding_opens(body_bytes: int) -> None:
    disk = SimulatedDisk(seed=1)
    log = open_log(disk, SMALL)
    made_bytes = disk.used_bytes()
    zxid = 0
    while disk.used_bytes() == made_bytes:  # up to where the file grows: what lies before cannot be cut off
        zxid += 1
        log.append([Record(zxid, 6, 1, 0, b"", b"x" * 200)])
    log.sync()
    log.append([Record(zxid + 1, 6, 1, 0, b"", b"y" * body_bytes)])
    (name,) = [name for name in disk.names() if name.startswith("segment-")]
    disk.open(name).truncate(disk.content_of(name).rindex(b"y") + 1)
    again = open_log(disk.restart(), SMALL)
    assert again.last_zxid == zxid + 1
    assert again.read(zxid + 1).payload == b"y" * body_bytes
