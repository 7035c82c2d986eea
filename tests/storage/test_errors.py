"""Every error of the storage layer says what was wrong, and crosses process borders."""

from __future__ import annotations

import errno
import pickle

import pytest

from sluicemq.storage import errors

EXAMPLES = [
    errors.InvalidOption("segment_bytes", 1, "must be at least 16384"),
    errors.DirectoryLocked("data", 42),
    errors.DirectoryLocked("data", None),
    errors.ForeignData("superblock", "cluster", "aa", "bb"),
    errors.NewerFormat("superblock", 2, 1),
    errors.NotInLiveStore(3, 5, "segment 4 would be cut in two"),
    errors.SuperblockDamaged("superblock", ("copy 1: bad", "copy 2: bad")),
    errors.SuperblockMissing("superblock", ("segment-1",)),
    errors.LogCorrupt("segment-1", 4096, "no record here", 1 << 32, (1 << 32) + 5),
    errors.LogCorrupt("segment-1", 0, "header", 0),
    errors.LogReadFailed("segment-1", 4096, errno.EIO),
    errors.LogWriteFailed("segment-1", "sync", errno.EIO),
    errors.LogClosed(),
    errors.EntryTooLarge(1 << 32, 100, 50),
    errors.ZxidGap(1 << 32, (1 << 32) + 2),
    errors.EpochExhausted((2 << 32) - 2, (2 << 32) - 1),
    errors.ZxidNotFound(7, 0, 5),
    errors.OldFileMissing((errors.FileGap("segment-1", "segment-3", 9, 12, 5, (("orders", 4),), 2),), 3),
    errors.OldFileMissing((errors.FileGap("", "segment-3", 9, 12, 4, (("orders", 4),), 1),), 1),
    errors.MessageLost("orders", 9),
    errors.PromiseRegression(5, 4),
    errors.SpareNotPrepared("spare-1", errno.ENOSPC, 1024),
    errors.FileReadFailed("pages", 4096, errno.EIO),
    errors.FileWriteFailed("pages", "sync", errno.EIO),
    errors.DiskFull("snapshot.new", "write", errno.ENOSPC),
    errors.SnapshotDamaged("snapshot-0000000100000007", 4096, "checksum of section 1 does not match"),
    errors.SnapshotMisnamed("snapshot-0000000100000007", 0, "it was written as snapshot-0000000100000009"),
    errors.SnapshotContradictsLog("snapshot-0000000100000007", (1 << 32) + 7, "the log ends at 1.5"),
    errors.SnapshotMissing(1 << 32, ("snapshot-0000000100000007 is damaged",)),
    errors.SnapshotMissing(1 << 32, ()),
    errors.SnapshotNotNewer(1 << 32, (1 << 32) + 1),
    errors.SnapshotInProgress(1 << 32),
    errors.PageCorrupt("pages", 4096, 0, "checksum does not match"),
]


def test_every_error_has_an_example_here():
    assert {type(example).__name__ for example in EXAMPLES} == set(errors.__all__) - {
        "FileGap",
        "StorageError",
        "format_zxid",
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_an_error_survives_pickling_with_its_fields_and_text(example):
    copy = pickle.loads(pickle.dumps(example))

    assert type(copy) is type(example)
    assert vars(copy) == vars(example)
    assert str(copy) == str(example) != ""


def test_damage_is_reported_with_its_place_and_the_way_on():
    text = str(errors.LogCorrupt("data/segment-3", 4096, "no record here", 1 << 32, (1 << 32) + 5))

    for part in ("data/segment-3", "4096", "1.0", "1.5", "Nothing was changed", "backup"):
        assert part in text
