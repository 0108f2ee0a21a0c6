//! Whether a run says anything of the system: the rules by which it is invalid.
//!
//! Owns: the rules. Must not: judge the system. Talks to: `run`, which asks at the end.
//!
//! | check | the run is invalid when |
//! | --- | --- |
//! | `generator-cpu` | a thread of the generator ran, or could have run and was kept from it, for more than `thread-cores` of the measured part: what it saw late it may itself have been late to look at |
//! | `generator-lag` | pushes of a load left late: the p99 is above `lag-ms`, above `lag-share` of the p99 that the load's receivers show, and in any case above `lag-most-ms` |
//! | `dropped-sends` | a push was due and never left, because too many were in flight |
//! | `no-samples` | a load was to be measured, and nothing arrived or nothing left |
//! | `not-joined` | more than `not-joined` of the clients never joined at all |
//! | `publisher` | a publisher could not be connected, or broke |

use crate::result::Invalid;
use crate::scenario::Bounds;

/// What the rules look at, of one load.
#[derive(Debug, Clone)]
pub(crate) struct LoadFacts {
    /// `room_push(100)`.
    pub(crate) scope: String,
    pub(crate) lag_p99_ms: f64,
    /// p99 of each receiver.
    pub(crate) p99_ms: f64,
    pub(crate) dropped: u64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Why its publisher did not work, if it did not.
    pub(crate) failed: Option<String>,
}

/// The parts of a core that a thread had and waited for, 0 to 1.
#[derive(Debug, Clone)]
pub(crate) struct ThreadShare {
    pub(crate) name: String,
    pub(crate) ran: f64,
    pub(crate) waited: f64,
}

/// The reasons for which a run is invalid; empty: it is valid.
pub(crate) fn reasons(
    bounds: &Bounds,
    loads: &[LoadFacts],
    threads: &[ThreadShare],
    asked: u64,
    ever_joined: u64,
) -> Vec<Invalid> {
    let mut found = Vec::new();
    let mut say = |check: &str, what: String| found.push(Invalid { check: check.into(), found: what });
    for ThreadShare { name, ran, waited } in threads {
        if ran + waited > bounds.thread_cores {
            let allowed = bounds.thread_cores;
            let what =
                format!("thread {name}: ran {ran:.2} and waited {waited:.2} of a core, allowed {allowed:.2}");
            say("generator-cpu", what);
        }
    }
    for load in loads {
        let scope = &load.scope;
        if let Some(why) = &load.failed {
            say("publisher", format!("{scope}: {why}"));
            continue;
        }
        let allowed = bounds.lag_ms.max(bounds.lag_share * load.p99_ms).min(bounds.lag_most_ms);
        if load.lag_p99_ms > allowed {
            let late = load.lag_p99_ms;
            say(
                "generator-lag",
                format!("{scope}: pushes left {late:.3} ms late (p99), allowed {allowed:.3} ms"),
            );
        }
        if load.dropped > 0 {
            say("dropped-sends", format!("{scope}: {} pushes never left, allowed 0", load.dropped));
        }
        if load.sent == 0 || load.received == 0 {
            say("no-samples", format!("{scope}: {} pushes left, {} arrived", load.sent, load.received));
        }
    }
    let missing = asked.saturating_sub(ever_joined);
    if missing as f64 > bounds.not_joined * asked as f64 {
        let allowed = bounds.not_joined * 100.0;
        say("not-joined", format!("{missing} of {asked} clients never joined, allowed {allowed:.1} %"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> LoadFacts {
        LoadFacts {
            scope: "room_push(100)".into(),
            lag_p99_ms: 0.5,
            p99_ms: 3.0,
            dropped: 0,
            sent: 10,
            received: 1000,
            failed: None,
        }
    }

    fn thread(ran: f64, waited: f64) -> [ThreadShare; 1] {
        [ThreadShare { name: "fleet-0".into(), ran, waited }]
    }

    fn checks(load: LoadFacts, threads: &[ThreadShare], joined: u64) -> Vec<String> {
        let found = reasons(&Bounds::default(), &[load], threads, 10, joined);
        found.into_iter().map(|invalid| invalid.check).collect()
    }

    #[test]
    fn each_rule_has_its_name() {
        assert!(checks(load(), &thread(0.5, 0.2), 10).is_empty());
        assert_eq!(checks(load(), &thread(0.95, 0.0), 10), ["generator-cpu"]);
        assert_eq!(checks(load(), &thread(0.4, 0.55), 10), ["generator-cpu"]);
        assert_eq!(checks(LoadFacts { lag_p99_ms: 1.2, ..load() }, &[], 10), ["generator-lag"]);
        assert!(checks(LoadFacts { lag_p99_ms: 1.2, p99_ms: 20.0, ..load() }, &[], 10).is_empty());
        let far = LoadFacts { lag_p99_ms: 60.0, p99_ms: 9000.0, ..load() };
        assert_eq!(checks(far, &[], 10), ["generator-lag"]);
        assert_eq!(checks(LoadFacts { dropped: 1, ..load() }, &[], 10), ["dropped-sends"]);
        assert_eq!(checks(LoadFacts { received: 0, ..load() }, &[], 10), ["no-samples"]);
        assert_eq!(checks(load(), &[], 9), ["not-joined"]);
        assert_eq!(checks(LoadFacts { failed: Some("gone".into()), ..load() }, &[], 10), ["publisher"]);
    }
}
