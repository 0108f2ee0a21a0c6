//! What of a run is worth setting beside another run.
//!
//! Owns: the choice of figures, medians and the worst. Must not: print. Talks to: `result`.

use crate::result::{LatencyScope, ProcessFigures, RunResult};

/// One figure of one run.
pub(crate) struct Figure {
    /// What it belongs to, with its unit where all have the same.
    pub(crate) group: &'static str,
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) good: Good,
    pub(crate) in_bytes: bool,
}

/// Which direction is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Good {
    Small,
    Large,
}

/// The same figure of several runs.
pub(crate) struct Values(pub(crate) Vec<f64>);

impl Values {
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match (sorted.len(), sorted.len() / 2) {
            (0, _) => f64::NAN,
            (count, middle) if count % 2 == 1 => sorted[middle],
            (_, middle) => (sorted[middle - 1] + sorted[middle]) / 2.0,
        }
    }

    pub(crate) fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn most(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    pub(crate) fn worst(&self, good: Good) -> f64 {
        if good == Good::Small { self.most() } else { self.least() }
    }
}

/// The figures of all these runs, in the order in which they come first.
pub(crate) fn collect<'a>(runs: impl IntoIterator<Item = &'a RunResult>) -> Vec<(Figure, Values)> {
    let mut all: Vec<(Figure, Values)> = Vec::new();
    for result in runs {
        for figure in figures(result) {
            match all.iter_mut().find(|(known, _)| known.name == figure.name && known.group == figure.group) {
                Some((_, values)) => values.0.push(figure.value),
                None => {
                    let value = figure.value;
                    all.push((figure, Values(vec![value])));
                }
            }
        }
    }
    all
}

/// What of a run is worth comparing.
fn figures(result: &RunResult) -> Vec<Figure> {
    let mut figures = Vec::new();
    for scope in result.latency.iter().filter(|scope| scope.samples > 0) {
        add_latency(&mut figures, scope);
    }
    let mut add = |group, name: String, value: f64, good, in_bytes| {
        figures.push(Figure { group, name, value, good, in_bytes });
    };
    let (t, c) = (&result.throughput, &result.connections);
    let group = "throughput";
    for (name, value) in [
        ("pushes/s", t.pushes_achieved_per_s),
        ("deliveries/s", t.deliveries_achieved_per_s),
        ("joins/s", c.joins_per_s),
    ] {
        if value > 0.0 {
            add(group, name.into(), value, Good::Large, false);
        }
    }
    let mut roles: Vec<&str> = Vec::new();
    for process in &result.processes {
        if !roles.contains(&process.role.as_str()) {
            roles.push(&process.role);
        }
    }
    for role in &roles {
        let of: Vec<&ProcessFigures> =
            result.processes.iter().filter(|process| process.role == *role).collect();
        let group = "CPU";
        add(group, format!("{role} cores"), of.iter().map(|process| process.cores).sum(), Good::Small, false);
        let user: Option<f64> = of.iter().map(|process| process.cores_user).sum();
        if let Some(user) = user {
            add(group, format!("{role} cores in user mode"), user, Good::Small, false);
        }
        if let Some(each) = mean(of.iter().map(|process| process.cpu_us_per_delivery)) {
            add(group, format!("{role} µs per delivery"), each, Good::Small, false);
        }
    }
    for role in &roles {
        let of: Vec<&ProcessFigures> =
            result.processes.iter().filter(|process| process.role == *role).collect();
        let group = "memory";
        let rss = of.iter().map(|process| process.rss_bytes as f64).sum();
        add(group, format!("{role} RSS"), rss, Good::Small, true);
        if let Some(each) = mean(of.iter().map(|process| process.rss_per_connection_bytes)) {
            add(group, format!("{role} bytes per connection"), each, Good::Small, true);
        }
    }
    let g = &result.generator;
    add("generator", "cores".into(), g.cores, Good::Small, false);
    add("generator", "lag p99, ms".into(), g.lag_p99_ms, Good::Small, false);
    figures
}

fn add_latency(figures: &mut Vec<Figure>, scope: &LatencyScope) {
    for (statistic, value) in
        [("p50", scope.p50_ms), ("p99", scope.p99_ms), ("p99.9", scope.p999_ms), ("max", scope.max_ms)]
    {
        let name = format!("{} {} {statistic}", scope.scope, scope.until);
        figures.push(Figure { group: "latency, ms", name, value, good: Good::Small, in_bytes: false });
    }
}

/// The mean of what is known; `None` where nothing is.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let known: Vec<f64> = values.flatten().collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_number_of_runs_has_its_median_between_the_middle_two() {
        assert!((Values(vec![4.0, 1.0, 2.0, 3.0]).median() - 2.5).abs() < f64::EPSILON);
    }

    #[test]
    fn the_worst_is_the_largest_or_the_smallest_as_the_figure_has_it() {
        let values = Values(vec![2.0, 1.0, 3.0]);
        assert_eq!([Good::Small, Good::Large].map(|good| values.worst(good)), [3.0, 1.0]);
    }

    #[test]
    fn processes_of_one_role_are_one_figure() {
        let result = crate::sample::room_push();
        let cores = collect([&result]).into_iter().find(|(figure, _)| figure.name == "connect-node cores");
        assert!((cores.unwrap().1.median() - 0.13).abs() < 1e-9);
    }
}
