//! The bench measures a floor server and our node alike, its counts add up, and a loss voids the row.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::time::Duration;

use peers::contestant::{Contestant, Options, Place};
use peers::run::{Row, RunOptions, run};
use peers::scenario::{Load, Scenario, Times};

/// Small, and like F otherwise: rooms in turn.
const SMALL: Scenario = Scenario {
    name: "F",
    about: "5 rooms of 10, 50 publishes a second",
    rooms: 5,
    members: 10,
    load: Load::Paced(50.0),
    steered: false,
};

fn measured(contestant: Contestant, floor_flags: &[&str], load: Load) -> Row {
    let place = Place::find().unwrap();
    assert_eq!(contestant.missing(&place), None);
    let floor_flags = floor_flags.iter().map(|flag| (*flag).to_owned()).collect();
    let options = RunOptions {
        place,
        contestants: Options { floor_flags },
        times: Times {
            warm_up: Duration::from_millis(200),
            window: Duration::from_secs(1),
            bursts: 2,
            patience: Duration::from_secs(3),
        },
        set_machine: false,
        // How much of the machine a neighbour takes is nothing that a test can promise.
        max_steal_percent: 100.0,
    };
    run(contestant, &Scenario { load, ..SMALL }, &options, 0).unwrap()
}

#[test]
fn the_counts_of_floor_and_node_add_up() {
    for contestant in [Contestant::Floor, Contestant::IoUring] {
        let row = measured(contestant, &[], SMALL.load);
        assert_eq!(row.void, None, "{row:?}");
        // 50 publishes to 10 members in a second, give or take what is on its way at both ends.
        assert!((430..=570).contains(&row.deliveries), "{row:?}");
        assert!(row.cpu_us > 0.5 && row.p50_ms > 0.0 && row.last_p99_ms >= row.p50_ms, "{row:?}");
        assert!(row.upgrades_per_s > 10.0 && row.handshake_p99_ms > 0.0, "{row:?}");
    }
}

#[test]
fn bursts_arrive_whole() {
    // Where nothing is reported, nothing but the arrival tells that what left last has not been cut off.
    for contestant in [Contestant::Floor, Contestant::IoUring, Contestant::NoReports] {
        let row = measured(contestant, &[], Load::Burst(100));
        assert_eq!(row.void, None, "{row:?}");
        assert_eq!(row.deliveries, 2 * 100 * 10, "{row:?}");
    }
}

#[test]
fn a_frame_that_is_left_out_voids_the_row() {
    let row = measured(Contestant::Floor, &["--drop-nth", "333"], SMALL.load);
    let void = row.void.clone().unwrap_or_default();
    assert!(void.contains(" lost") && !void.starts_with("0 lost"), "{row:?}");
}
