//! Everything that is to go wrong: counted, so that a simulation that no longer provokes it is noticed.

macro_rules! faults {
    ($($name:ident),* $(,)?) => {
        /// What went wrong, or happened at an awkward moment.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Fault { $($name),* }

        impl Fault {
            pub(crate) const ALL: &[Fault] = &[$(Fault::$name),*];
        }
    };
}

faults!(
    TableFull,
    TornHead,
    GarbageHead,
    HeadTimedOut,
    JoinRefused,
    JoinNeverAnswered,
    JoinAnsweredLate,
    JoinWithdrawn,
    FloodBeforeJoin,
    FramesBeforeJoin,
    TornFrame,
    FragmentedMessage,
    BadFrame,
    PeerClosed,
    PeerPing,
    PeerNeverReads,
    PartialWrite,
    FailedWrite,
    CompletionAfterEnd,
    GoneInFlight,
    Broken,
    HalfClose,
    HalfCloseOfRequest,
    PongTimeout,
    SlowByPush,
    SlowByReply,
    LateOutcome,
    ReportAtDeadline,
    ReportInTime,
    ReportOfNobody,
    Shed,
    Excluded,
    LargePush,
    Coalesced,
    RoomsChanged,
    RoomLimit,
    Snapshot,
    ClockLeap,
    ClockBack,
    ShardBehind,
    DrainInBurst,
    RefusedByDrain,
    Fenced,
    RefusedByFence,
    StaleInput,
    DroppedClosed,
    EchoedMessage,
    FinishIgnored,
);

/// How often each was hit.
#[derive(Debug, Clone)]
pub(crate) struct Hits(Vec<u64>);

impl Hits {
    pub(crate) fn new() -> Self {
        Self(vec![0; Fault::ALL.len()])
    }

    pub(crate) fn hit(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, more)| *sum += more);
    }

    pub(crate) fn never(&self) -> Vec<Fault> {
        Fault::ALL.iter().copied().filter(|&fault| self.0[fault as usize] == 0).collect()
    }
}

impl std::fmt::Display for Hits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Fault::ALL.iter().try_for_each(|&fault| writeln!(f, "{fault:?}: {}", self.0[fault as usize]))
    }
}
