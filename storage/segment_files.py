"""Which segment files a directory has, and opening one with every check of its first page.

Why apart from recovery: the live store and the tools open segments too, and all must agree on what a good one is. This
module reads no records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.storage.decisions_files import Kind
from sluicemq.storage.first_pages import PageFacts, open_accepted
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

    def facts_of(page: bytes, size: int) -> tuple[SegmentHeader, PageFacts]:
        version, header = SegmentHeader.from_page(page)
        found, made_with = header.sequence, header.file_bytes
        misnamed = f"the header says segment {found}: a file under a wrong name" if found != sequence else ""
        # Never a torn tail: the size was durable before the first record.
        shortened = f"the file has {size} bytes, it had {made_with} when it was made: it was shortened"
        return header, PageFacts(
            version, header.cluster_id, header.group_id, misnamed, shortened if size < made_with else "", size
        )

    kind = Kind.LOG if sequence >= superblock.first_segment else Kind.LIVE
    name = segment_name(sequence)
    file, header, size = open_accepted(directory, name, kind, superblock, SEGMENT_FORMAT_VERSION, facts_of, last_zxid)
    return Segment(file, header, size, SegmentIndex(stride_bytes))
