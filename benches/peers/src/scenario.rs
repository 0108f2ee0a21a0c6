//! The scenarios, as data.
//!
//! Owns: their names and numbers. Must not: run them.

use std::time::Duration;

/// What is done to a contestant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scenario {
    /// Its name on the command line: `C2`.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Rooms.
    pub rooms: u32,
    /// Subscribers of each room.
    pub members: u32,
    /// What is published.
    pub load: Load,
    /// Whether the receiver's side of TCP is moved to the client's core.
    pub steered: bool,
}

/// What is published.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// Nothing: only the connecting and the memory count.
    Idle,
    /// Publishes a second in all, on a schedule, to the rooms in turn.
    Paced(f64),
    /// So many publishes back to back, then a wait until all have arrived, then again.
    Burst(u32),
    /// As `Paced`, to the single user of each room where the contestant knows users.
    PacedToUser(f64),
}

/// All of them.
pub const SCENARIOS: [Scenario; 7] = [
    Scenario {
        name: "A",
        about: "10,000 idle connections opened at full speed",
        rooms: 1_000,
        members: 10,
        load: Load::Idle,
        steered: false,
    },
    Scenario {
        name: "C2",
        about: "one room of 10,000, 2 publishes a second",
        rooms: 1,
        members: 10_000,
        load: Load::Paced(2.0),
        steered: true,
    },
    Scenario {
        name: "C10",
        about: "one room of 10,000, 10 publishes a second",
        rooms: 1,
        members: 10_000,
        load: Load::Paced(10.0),
        steered: true,
    },
    Scenario {
        name: "Csat",
        about: "one room of 10,000, 100 publishes back to back",
        rooms: 1,
        members: 10_000,
        load: Load::Burst(100),
        steered: false,
    },
    Scenario {
        name: "D",
        about: "one room of 100, 50 publishes a second",
        rooms: 1,
        members: 100,
        load: Load::Paced(50.0),
        steered: true,
    },
    Scenario {
        name: "E",
        about: "one publisher, one receiver, 1,000 a second",
        rooms: 1,
        members: 1,
        load: Load::PacedToUser(1_000.0),
        steered: true,
    },
    Scenario {
        name: "F",
        about: "1,000 rooms of 10, 1,000 publishes a second",
        rooms: 1_000,
        members: 10,
        load: Load::Paced(1_000.0),
        steered: true,
    },
];

impl Scenario {
    /// The one of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        SCENARIOS.into_iter().find(|scenario| scenario.name.eq_ignore_ascii_case(name))
    }

    /// Subscribers in all.
    pub fn clients(&self) -> usize {
        self.rooms as usize * self.members as usize
    }

    /// The name of a room, 8 bytes.
    pub fn room(number: u32) -> String {
        format!("room{number:04}")
    }

    /// The id and name of a client's user, 8 bytes.
    pub fn user(number: usize) -> String {
        format!("u{number:07}")
    }
}

/// How long things take in a row.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Publishing before anything is measured.
    pub warm_up: Duration,
    /// The window that is measured.
    pub window: Duration,
    /// Bursts of [`Load::Burst`]; a tenth of one comes first and does not count.
    pub bursts: u32,
    /// How long what was published may take to arrive.
    pub patience: Duration,
}

impl Times {
    /// For development.
    pub fn quick() -> Self {
        Self { window: Duration::from_secs(4), bursts: 1, ..Self::full() }
    }

    /// For figures.
    pub fn full() -> Self {
        Self {
            warm_up: Duration::from_millis(1_500),
            window: Duration::from_secs(10),
            bursts: 2,
            patience: Duration::from_secs(20),
        }
    }
}
