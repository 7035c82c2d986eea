"""Which segment files a directory has, and opening one with every check of its first page.

Why apart from recovery: the live store and the tools open segments too, and all must agree on what a good one is. This
module reads no records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.storage.errors import ForeignData, LogCorrupt, NewerFormat
from sluicemq.storage.pages import PAGE_BYTES, PageDamaged
from sluicemq.storage.segment import SEGMENT_FORMAT_VERSION, Segment, SegmentHeader, segment_name, segment_sequence
from sluicemq.storage.segment_index import SegmentIndex

if TYPE_CHECKING:
    from sluicemq.storage.files import Directory
    from sluicemq.storage.superblock import Superblock

__all__ = ["open_segment", "segment_sequences"]


def segment_sequences(directory: Directory) -> list[int]:
    """Sequence numbers of all segment files, ascending."""
    return sorted(sequence for name in directory.names() if (sequence := segment_sequence(name)) is not None)


def open_segment(
    directory: Directory, superblock: Superblock, sequence: int, stride_bytes: int, last_zxid: int
) -> Segment:
    """Open a segment and check its header page.

    `last_zxid` is for the error. Raises LogCorrupt, ForeignData, NewerFormat, OSError.
    """
    name = segment_name(sequence)
    path = directory.path_of(name)
    file = directory.open(name)
    try:
        try:
            version, header = SegmentHeader.from_page(file.pread(PAGE_BYTES, 0))
        except PageDamaged as damage:
            raise LogCorrupt(path, 0, f"segment header: {damage}", last_zxid) from None
        if version > SEGMENT_FORMAT_VERSION:
            raise NewerFormat(path, version, SEGMENT_FORMAT_VERSION)
        if header.cluster_id != superblock.cluster_id:
            raise ForeignData(path, "cluster", superblock.cluster_id.hex(), header.cluster_id.hex())
        if header.group_id != superblock.group_id:
            raise ForeignData(path, "group", str(superblock.group_id), str(header.group_id))
        if header.sequence != sequence:
            raise LogCorrupt(
                path, 0, f"the header says segment {header.sequence}: a file under a wrong name", last_zxid
            )
        size = file.size()
        if size < header.file_bytes:
            # Never a torn tail: the size was durable before the first record.
            reason = f"the file has {size} bytes, it had {header.file_bytes} when it was made: it was shortened"
            raise LogCorrupt(path, size, reason, last_zxid)
        return Segment(file, header, size, SegmentIndex(stride_bytes))
    except BaseException:
        file.close()
        raise
