"""The limits and times of a replica, and why they relate as they do. Checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """Times in seconds of the monotonic clock, sizes in bytes.

    Attributes:
        finalize_seconds: How long a replica whose candidate has a quorum waits for a better one, unless all were heard.
        notify_seconds_min: First pause before a vote is sent again; it doubles.
        notify_seconds_max: Longest such pause.
        discovery_seconds: How long a leader may take to gather a quorum of promises, and a learner to hear of it.
        ping_seconds: Between two pings of a leader.
        leader_seconds: A leader that was not heard by a quorum for so long steps down.
        follower_seconds: A learner that did not hear its leader for so long looks for another one. It is longer than
            `leader_seconds` by more than two clocks can drift apart, so that the old leader has stopped before a new
            one is sought. Both are multiplied where leaders are given up again and again (`patience`), and so is
            `discovery_seconds`.
        tell_commit_seconds: How long a leader that has nothing else to say keeps to itself what is committed: the next
            proposal mostly says it too, and a message of its own would cost both sides as much as that. 0: nothing.
        own_disk_seconds: A leader steps down when its own disk has not made durable for so long what a quorum has.
        change_seconds: How long the first record of a change of voters may stay uncommitted until it is taken back.
        transfer_seconds: How long the lead may take to be handed over before proposals are accepted again.
        snapshot_retry_seconds: Pause before a snapshot that failed is sent again.
        window_bytes_max: Most bytes on their way to one learner and not acknowledged.
        message_bytes_max: Most bytes of entries in one message, but at least one entry.
        uncommitted_bytes_max: Proposals are refused while more than this waits for a quorum.
        reads_max: Most reads that wait for a round of pings.
        state_hashes_max: Most hashes of its own state that a replica keeps for comparison.
        state_pings_max: After so many pings another place is compared, whoever has not answered.
        epoch_rows_max: Most rows of a log's epochs in one message; a log that shares none of them needs a snapshot.
        counter_max: A leader whose counter has come so far begins a new epoch in good order.

    """

    finalize_seconds: float = 0.2
    notify_seconds_min: float = 0.2
    notify_seconds_max: float = 2.0
    discovery_seconds: float = 2.0
    ping_seconds: float = 0.2
    leader_seconds: float = 0.7
    follower_seconds: float = 1.0
    tell_commit_seconds: float = 0.01
    own_disk_seconds: float = 2.0
    change_seconds: float = 5.0
    transfer_seconds: float = 5.0
    snapshot_retry_seconds: float = 1.0
    window_bytes_max: int = 8 * 1024 * 1024
    message_bytes_max: int = 1024 * 1024
    uncommitted_bytes_max: int = 64 * 1024 * 1024
    reads_max: int = 10_000
    state_hashes_max: int = 16
    state_pings_max: int = 40
    epoch_rows_max: int = 1_000
    counter_max: int = 0xF000_0000

    def __post_init__(self) -> None:
        if not 0 <= self.tell_commit_seconds < self.ping_seconds < self.leader_seconds < self.follower_seconds:
            raise ValueError(
                "pings must be more frequent than a leader's patience, that must be shorter than a follower's, and "
                "tell_commit_seconds shorter than the pause between pings, which tell the same"
            )
        if not 0 < self.notify_seconds_min <= self.notify_seconds_max:
            raise ValueError("the pause between votes must be positive and must not shrink")
        if not 0 < self.message_bytes_max <= self.window_bytes_max <= self.uncommitted_bytes_max:
            raise ValueError("a message must fit the window of a learner, and that what may be uncommitted")
        if not 1 <= self.counter_max < 0xFFFF_FFFF:
            raise ValueError(f"counter_max must leave room for the proposals under way, not {self.counter_max:#x}")
        times = self.finalize_seconds, self.discovery_seconds, self.own_disk_seconds, self.change_seconds
        if min(*times, self.transfer_seconds, self.snapshot_retry_seconds) <= 0:
            raise ValueError("times must be positive")
        if min(self.reads_max, self.epoch_rows_max, self.state_hashes_max, self.state_pings_max) < 1:
            raise ValueError("limits must be at least 1")
