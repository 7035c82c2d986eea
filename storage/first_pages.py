"""Accepting or refusing a file by its first page: one place that asks the table for segments and rewritten files alike.

Why: recovery, the live store and the tools open such files, and all must refuse the same ones with the same words. This
module knows no format; whoever does says what stands in a page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from sluicemq.storage.decisions import Decision
from sluicemq.storage.decisions_files import FIRST_PAGES, FirstPage, Kind, Named, Size
from sluicemq.storage.decisions_superblock import Belongs
from sluicemq.storage.errors import ForeignData, LogCorrupt, NewerFormat
from sluicemq.storage.files import naming
from sluicemq.storage.pages import PAGE_BYTES, PageDamaged

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.storage.files import Directory, File
    from sluicemq.storage.superblock import Superblock

__all__ = ["PageFacts", "belongs_to", "open_accepted"]

_Header = TypeVar("_Header")


class PageFacts(NamedTuple):
    """What stood in a first page that is whole.

    `misnamed` says in words which file it is, if another than its name says; `shortened` likewise that the file, of
    `size` bytes, is smaller than the page says.
    """

    version: int
    cluster_id: bytes
    group_id: int
    misnamed: str = ""
    shortened: str = ""
    size: int = 0
    last_zxid: int = 0
    """The entry before the file's first, for errors."""


def belongs_to(cluster_id: bytes | None, group_id: int | None, facts: PageFacts | Superblock) -> Belongs:
    """Whose file it is; None stands for anybody's."""
    if cluster_id is not None and facts.cluster_id != cluster_id:
        return Belongs.OTHER_CLUSTER
    return Belongs.OURS if group_id is None or facts.group_id == group_id else Belongs.OTHER_GROUP


def open_accepted(
    directory: Directory,
    name: str,
    kind: Kind,
    superblock: Superblock,
    supported: int,
    facts_of: Callable[[bytes, int], tuple[_Header, PageFacts]],
    last_zxid: int = 0,
) -> tuple[File, _Header, int]:
    """Open a file of entries and check its first page; the file, what the page says, and the file's size.

    `facts_of` is given the page and the file's size; it raises PageDamaged. `supported` is the newest known version,
    `last_zxid` the entry before the file, for errors.

    Raises LogCorrupt, ForeignData, NewerFormat, OSError.
    """
    path = directory.path_of(name)
    file = directory.open(name)
    try:
        with naming(path):
            page, size = file.pread(PAGE_BYTES, 0), file.size()
        try:
            header, facts = facts_of(page, size)
        except PageDamaged as damage:
            what = "first page" if kind is Kind.SPARSE else "segment header"
            _accept(kind, path, superblock, supported, f"{what}: {damage}", last_zxid)
            raise AssertionError("only a page that could be read is accepted") from None
        _accept(kind, path, superblock, supported, facts, max(last_zxid, facts.last_zxid))
        return file, header, size
    except BaseException:
        file.close()
        raise


def _accept(
    kind: Kind, path: str, superblock: Superblock, supported: int, facts: PageFacts | str, last_zxid: int
) -> None:
    """Return if the start may go on with this file.

    `facts` is text where the page is damaged: what is wrong with it.

    Raises LogCorrupt, NewerFormat, ForeignData.
    """
    if isinstance(facts, str):
        page, belongs, named, size = FirstPage.DAMAGED, Belongs.OURS, Named.RIGHT, Size.WHOLE
    elif facts.version > supported:
        page, belongs, named, size = FirstPage.NEWER, Belongs.OURS, Named.RIGHT, Size.WHOLE
    else:
        page = FirstPage.GOOD
        belongs = belongs_to(superblock.cluster_id, superblock.group_id, facts)
        named = Named.WRONG if facts.misnamed else Named.RIGHT
        size = Size.SHORTENED if facts.shortened else Size.WHOLE
    row = FIRST_PAGES.decide(kind, page, belongs, named, size)
    if row.decision is Decision.START:
        return
    assert row.decision is Decision.REFUSE, "nothing of the log is made anew or passed over"
    if isinstance(facts, str):
        raise LogCorrupt(path, 0, facts, last_zxid)
    if page is FirstPage.NEWER:
        raise NewerFormat(path, facts.version, supported)
    if belongs is Belongs.OTHER_CLUSTER:
        raise ForeignData(path, "cluster", superblock.cluster_id.hex(), facts.cluster_id.hex())
    if belongs is Belongs.OTHER_GROUP:
        raise ForeignData(path, "group", str(superblock.group_id), str(facts.group_id))
    if facts.misnamed:
        raise LogCorrupt(path, 0, facts.misnamed, last_zxid)
    raise LogCorrupt(path, facts.size, facts.shortened, last_zxid)
