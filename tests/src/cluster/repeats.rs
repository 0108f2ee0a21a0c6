//! Which scenarios run, how often, and how large.
//!
//! Owns: the variables that say so, the figures of several rounds. Must not: know what a scenario does.
//!
//! | variable | what | without it |
//! | --- | --- | --- |
//! | `RINGCAST_FAULTS_CLIENTS` | clients of a scenario; 900 at most where a node's network is broken | 2000 |
//! | `RINGCAST_FAULTS_REPEATS` | rounds of each scenario; each figure's median and worst are printed | 1 |
//! | `RINGCAST_FAULTS_TIMES` | `real`: outages last as long as they are promised to be survived | `short` |
//! | `RINGCAST_FAULTS_ONLY` | runs only the scenarios whose name contains this | all |

use std::time::Duration;

use super::outcome::Figures;
use crate::{Variant, alone};

/// How long things last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Load before the fault, between two, and after the last.
    pub load: Duration,
    /// A process that is held for long.
    pub long_stop: Duration,
    /// All of etcd is down.
    pub etcd_down: Duration,
    /// Another store is down or held.
    pub store_down: Duration,
}

impl Times {
    const SHORT: Self = Self {
        load: Duration::from_secs(3),
        long_stop: Duration::from_secs(14),
        etcd_down: Duration::from_secs(20),
        store_down: Duration::from_secs(5),
    };
    const REAL: Self = Self {
        load: Duration::from_secs(10),
        long_stop: Duration::from_secs(30),
        etcd_down: Duration::from_secs(60),
        store_down: Duration::from_secs(30),
    };

    /// As the environment says.
    pub fn from_env() -> Self {
        match std::env::var("RINGCAST_FAULTS_TIMES").as_deref() {
            Err(_) | Ok("" | "short") => Self::SHORT,
            Ok("real") => Self::REAL,
            Ok(other) => panic!("RINGCAST_FAULTS_TIMES = {other}: give short or real"),
        }
    }
}

/// How many clients a scenario has.
pub(super) fn clients() -> usize {
    number("RINGCAST_FAULTS_CLIENTS", 2_000)
}

fn number(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => {
            let number = text.parse().ok().filter(|number| *number > 0);
            number.unwrap_or_else(|| panic!("{name} = {text}: give a number from 1 on"))
        }
        _ => default,
    }
}

/// Runs a scenario as often as the environment says, with the machine to itself.
pub async fn scenario(name: &str, round: impl AsyncFn() -> Figures) {
    let only = std::env::var("RINGCAST_FAULTS_ONLY").unwrap_or_default();
    if !name.contains(&only) {
        return println!("{name}: left out, RINGCAST_FAULTS_ONLY = {only}");
    }
    if Variant::from_env() != Variant::IoUring {
        return println!("{name}: left out, a cluster's faults are no matter of the driver");
    }
    let _alone = alone();
    let mut rounds = Vec::new();
    for _ in 0..number("RINGCAST_FAULTS_REPEATS", 1) {
        rounds.push(round().await);
    }
    for (what, times) in Figures::together(&rounds) {
        let (median, worst) = (times[(times.len() - 1) / 2], times[times.len() - 1]);
        println!(
            "figure: {name}: {what}: median {:.2} s, worst {:.2} s of {}",
            median.as_secs_f64(),
            worst.as_secs_f64(),
            times.len()
        );
    }
}

/// Makes a test of each scenario: its name, and the function that is one round of it.
#[macro_export]
macro_rules! scenarios {
    ($($(#[$attribute:meta])* $name:ident = $round:path;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            $(#[$attribute])*
            async fn $name() {
                $crate::cluster::scenario(stringify!($name), $round).await;
            }
        )*
    };
}
