//! The test run: one build with the core's checks and the cluster's stores, then every test, then one closing line.
//!
//! Owns: what is built and run, the sum over all test binaries. Talks to: `step`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::BUILD_MINUTES;
use crate::step::Step;

/// The cargo features that switch the core's invariant checks on, and that bring the cluster's stores and the tests
/// with them. The profile is the one that is shipped, so that dependencies are built once.
pub(crate) const CHECKS: [&str; 2] = ["--features", "checks,cluster"];

/// How the end-to-end tests are run once more: with io_uring refused by a seccomp filter, and as a user without
/// rights and with hardly any locked memory.
const OTHER_DRIVERS: [&str; 2] = ["refused", "memlock"];

/// End-to-end tests that are about files, programs or figures, not about how a node does its I/O.
const WHATEVER_THE_DRIVER: [&str; 7] = [
    "deployment_files",
    "integration_examples",
    "message_in_the_logs",
    "one_push_is_one_trace",
    "page_and_client",
    "readme_reader",
    "told_to_the_service_manager",
];

/// One run of the tests.
pub(crate) struct Suite {
    /// What `cargo test` gets beside our own.
    pub(crate) cargo_args: Vec<String>,
    /// The environment of the tests.
    pub(crate) env: Vec<(&'static str, &'static str)>,
    /// Whether the end-to-end tests run on the other drivers, too.
    pub(crate) all_drivers: bool,
    /// The cluster's scenarios that are run ten times more, for the median and the worst of their times.
    pub(crate) measured: &'static [&'static str],
    /// How long one run of all tests may take, in minutes.
    pub(crate) minutes: u64,
}

impl Default for Suite {
    fn default() -> Self {
        Self { cargo_args: Vec::new(), env: Vec::new(), all_drivers: true, measured: &[], minutes: 40 }
    }
}

impl Suite {
    /// Longer: ten times the seeds, the tests that carry `#[ignore = "nightly: ..."]`, and the cluster's faults with
    /// 10,000 clients and outages as long as they are promised to be survived.
    pub(crate) fn nightly() -> Self {
        Self {
            cargo_args: ["--", "--include-ignored"].map(str::to_owned).to_vec(),
            env: vec![
                ("RINGCAST_SIM_SEEDS", "2560"),
                ("RINGCAST_FAULTS_CLIENTS", "10000"),
                ("RINGCAST_FAULTS_TIMES", "real"),
            ],
            all_drivers: true,
            measured: &["seed_1_a_node_dies", "a_storm_of_clients_is_back_in_15_s"],
            minutes: 240,
        }
    }

    /// Builds, tests, and prints the closing line, after which nothing follows. An error where the build failed.
    pub(crate) fn run(&self, root: &Path) -> Result<ExitCode> {
        // Test binaries are built along with the programs: with the dev-dependencies in play cargo unifies
        // features once, and `cargo test` finds everything done.
        let build = ["build", "--locked", "--release", "--workspace", "--bins", "--tests"];
        Step::new("cargo", &[&build[..], &CHECKS].concat()).minutes(BUILD_MINUTES).run(root)?;

        let test = ["test", "--locked", "--release", "--no-fail-fast", "--workspace"];
        let mut args: Vec<&str> = [&test[..], &CHECKS].concat();
        args.extend(self.cargo_args.iter().map(String::as_str));
        let mut sum = Sum::default();
        self.test(root, &args, None, &[], &mut sum);
        if self.all_drivers {
            // The same packages and features, or cargo would build anew; only the end-to-end tests.
            let names = end_to_end_tests(root)?;
            let mut args: Vec<&str> = [&test[..], &CHECKS].concat();
            args.extend(names.iter().flat_map(|name| ["--test", name]));
            for driver in OTHER_DRIVERS {
                let what = format!("the end-to-end tests, {driver}");
                self.test(root, &args, Some(&what), &[("RINGCAST_TEST_DRIVER", driver)], &mut sum);
            }
        }
        if !self.measured.is_empty() {
            let names = self.measured.iter().copied();
            let only = ["--test", "cluster_faults", "--", "--nocapture", "--exact"].into_iter().chain(names);
            let args: Vec<&str> = test.into_iter().chain(CHECKS).chain(only).collect();
            let ten = [("RINGCAST_FAULTS_REPEATS", "10")];
            self.test(root, &args, Some("ten rounds of what is measured"), &ten, &mut sum);
        }
        println!("{} passed, {} failed", sum.passed, sum.failed);
        Ok(if sum.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// One `cargo test`; what failed is in the sum.
    fn test(&self, root: &Path, args: &[&str], what: Option<&str>, env: &[(&str, &str)], sum: &mut Sum) {
        let mut step = Step::new("cargo", args).minutes(self.minutes);
        if let Some(what) = what {
            step = step.called(what);
        }
        for (name, value) in self.env.iter().chain(env) {
            step = step.env(name, value);
        }
        let failed_before = sum.failed;
        let ended = step.run_lines(root, |line| sum.see(line));
        if !matches!(ended, Ok(true)) && sum.failed == failed_before {
            // A test binary that crashed or was cut off has no closing line of its own.
            sum.failed += 1;
        }
        if let Err(error) = ended {
            println!("{error:#}");
        }
    }
}

/// The names of the end-to-end tests that are run once more on other drivers; those of a cluster are about processes.
fn end_to_end_tests(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join("tests/tests")).context("cannot list the end-to-end tests")? {
        let path = entry?.path();
        if let Some(name) = path.file_stem().and_then(|name| name.to_str()).filter(|_| path.is_file())
            && !name.starts_with("cluster_")
            && !WHATEVER_THE_DRIVER.contains(&name)
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The sum over all test binaries.
#[derive(Debug, Default, PartialEq)]
struct Sum {
    passed: u64,
    failed: u64,
}

impl Sum {
    /// Takes in a line of `cargo test`; closing lines of test binaries count, all others do not.
    fn see(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let count = |what: &str| {
            let mut words = counts.split([' ', ';', '.']).filter(|word| !word.is_empty());
            let mut before = "0";
            words
                .find_map(|word| {
                    if word == what {
                        Some(before)
                    } else {
                        before = word;
                        None
                    }
                })
                .and_then(|number| number.parse::<u64>().ok())
                .unwrap_or(0)
        };
        self.passed += count("passed");
        self.failed += count("failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_summed() {
        let mut sum = Sum::default();
        for line in [
            "running 30 tests",
            "test shard::tests::fans_out ... ok",
            "test result: ok. 28 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "12 passed, said a program",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.10s",
        ] {
            sum.see(line);
        }
        assert_eq!(sum, Sum { passed: 31, failed: 2 });
    }
}
