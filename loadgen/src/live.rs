//! The line that tells how a run goes while it goes.
//!
//! Owns: its wording and its rhythm. Must not: write to standard output, which is the report's.
//! Talks to: standard error; `result` (a [`Moment`]).

use std::io::{IsTerminal as _, Write as _};

use crate::quantity::{grouped, short};
use crate::result::Moment;

/// Where nobody rewrites a line, in a log, this many seconds pass between two.
const SECONDS_BETWEEN_LINES: f64 = 5.0;

/// Columns where the terminal does not say how many it has.
const DEFAULT_COLUMNS: usize = 100;

/// Shows moments on standard error.
#[derive(Debug)]
pub struct Live {
    kind: Kind,
    /// When the last line was written, in the run's seconds.
    last_s: f64,
    /// Something stands on the terminal's line.
    dirty: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Quiet,
    /// One line, written again and again.
    Terminal,
    Lines,
}

impl Live {
    /// On a terminal one line that is rewritten, else a line every 5 s and at events; nothing where `quiet`.
    pub fn new(quiet: bool) -> Self {
        let kind = match quiet {
            true => Kind::Quiet,
            false if std::io::stderr().is_terminal() => Kind::Terminal,
            false => Kind::Lines,
        };
        Self { kind, last_s: f64::NEG_INFINITY, dirty: false }
    }

    /// Shows a moment. What cannot be written is left: nobody reads it.
    pub fn show(&mut self, moment: &Moment) {
        let due = self.is_due(moment);
        let mut stderr = std::io::stderr().lock();
        let _ = match self.kind {
            Kind::Quiet => Ok(()),
            Kind::Lines if !due => Ok(()),
            Kind::Lines => writeln!(stderr, "{}", line(moment)),
            Kind::Terminal => {
                self.dirty = true;
                let fitting: String = line(moment).chars().take(columns().saturating_sub(1)).collect();
                // An event stays to be read; what follows is written below it.
                let end = if moment.event.is_empty() { "" } else { "\n" };
                write!(stderr, "\r{fitting}\x1b[K{end}")
            }
        };
        let _ = stderr.flush();
    }

    /// Clears the terminal's line, for what comes after the run.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.dirty) {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }

    fn is_due(&mut self, moment: &Moment) -> bool {
        // A moment comes a little early or late; half a second is not worth another five.
        let due = moment.at_s >= self.last_s + SECONDS_BETWEEN_LINES - 0.5 || !moment.event.is_empty();
        // The clock of a run that follows another starts anew.
        let anew = moment.at_s < self.last_s;
        if due || anew {
            self.last_s = moment.at_s;
        }
        due || anew
    }
}

/// One moment as a line.
fn line(moment: &Moment) -> String {
    let whole = |rate: f64| grouped(rate.max(0.0).round() as u64);
    let mut line = format!("{:>4.0} s  {} joined", moment.at_s, grouped(moment.live));
    if moment.joins_per_s > 0.0 {
        line.push_str(&format!("  +{}/s", whole(moment.joins_per_s)));
    }
    if moment.pushes_per_s > 0.0 || moment.deliveries_per_s > 0.0 {
        let (pushes, deliveries) = (whole(moment.pushes_per_s), whole(moment.deliveries_per_s));
        line.push_str(&format!("  {pushes} pushes/s  {deliveries} deliveries/s"));
    }
    for (name, value) in [("p50", moment.p50_ms), ("p99", moment.p99_ms), ("late by", moment.lag_ms)] {
        if let Some(value) = value {
            line.push_str(&format!("  {name} {} ms", short(value)));
        }
    }
    if !moment.event.is_empty() {
        line.push_str(&format!("  [{}]", moment.event));
    }
    line
}

fn columns() -> usize {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize to the address given, which is that of a local that outlives the call.
    let answered = unsafe { libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, &raw mut size) } == 0;
    if answered && size.ws_col > 0 { size.ws_col.into() } else { DEFAULT_COLUMNS }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at_s: f64, event: &str) -> Moment {
        Moment { at_s, event: event.into(), ..Moment::default() }
    }

    #[test]
    fn a_log_gets_a_line_every_five_seconds_and_at_events() {
        let mut live = Live { kind: Kind::Lines, last_s: f64::NEG_INFINITY, dirty: false };
        let due: Vec<bool> = (0..12).map(|second| live.is_due(&at(f64::from(second), ""))).collect();
        assert_eq!(due.iter().filter(|due| **due).count(), 3, "{due:?}");
        assert!(due[0] && due[5] && due[10]);
        assert!(live.is_due(&at(12.0, "node 1 killed")));
        assert!(live.is_due(&at(0.0, "")), "the next run begins at once");
    }

    #[test]
    fn a_line_says_what_there_is() {
        let moment = Moment {
            at_s: 12.4,
            live: 10_000,
            joins_per_s: 1_204.4,
            pushes_per_s: 50.0,
            deliveries_per_s: 4_999.6,
            p50_ms: Some(0.81),
            p99_ms: Some(3.1),
            lag_ms: Some(0.1),
            event: "ramp done".into(),
            ..Moment::default()
        };
        assert_eq!(
            line(&moment),
            "  12 s  10,000 joined  +1,204/s  50 pushes/s  5,000 deliveries/s  p50 0.81 ms  p99 3.1 ms  \
             late by 0.1 ms  [ramp done]"
        );
        assert_eq!(line(&at(3.0, "")), "   3 s  0 joined");
    }
}
