"""Seeds of the workload `replication` that fail when a fault that the simulator found comes back, each with what it found. Every test run has them.

A seed means another run when code or simulator draw in another order: whoever changes that much looks for a new one (`make mutants` has some of the
faults; for the others, undo the fix and run a hundred seeds), or moves the case into a small test.
"""

REGRESSIONS: dict[int, str] = {
    3: "a member that lost the word of its snapshot, while the leader trimmed further, was never sent another one",
    6: "a journal full of entries that must be repeated, and no room to repeat them: nothing was flushed any more",
    31: "a follower that reached the commit index after it had been told was never told it again",
    63: "a deposed leader took requests until its next turn, and stopped at a check; entries repeated in the journal kept their old generation",
    378: "answers that went along on their sender's own session were lost with it; the leader's session lived on and waited for them for ever",
    1063: "a candidate whose damage was found became leader by votes on their way, and never served",
}

COORDINATOR_REGRESSIONS: dict[int, str] = {
    596: "answers that had gone along on the answering node's own session were lost with it, and the leader waited for them for ever",
    2024: "a follower that gave its silent leader up answered its late beats, and the deposed leader answered reads from its old state",
    770: "a damaged candidate led by votes on their way, never served, and kept the others from campaigning",
}
"""The same for the workload `coordinators`."""
