//! A variable that cannot be read ends the process with 2 and one line; a flag wins over it.

use std::process::Command;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "service")]
struct Args {
    #[arg(long, env = "GRPC_PORT", value_parser = settings::parse_port)]
    grpc_port: Option<u16>,
}

/// Runs this very test again as the service: `flags`, with GRPC_PORT set.
fn service(variable: &str, flags: &str) -> (Option<i32>, String) {
    let output = Command::new(std::env::current_exe().expect("this test's own path"))
        .args(["--exact", "a_bad_variable_stops_the_start", "--nocapture"])
        .env("AS_SERVICE", flags)
        .env("GRPC_PORT", variable)
        .output()
        .expect("the service ran");
    (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
}

#[test]
fn a_bad_variable_stops_the_start() {
    if let Ok(flags) = std::env::var("AS_SERVICE") {
        let args = std::iter::once("service").chain(flags.split_whitespace()).map(Into::into);
        match settings::parse_from::<Args>(args) {
            Ok(args) => std::process::exit(i32::from(args.grpc_port.unwrap_or(0)) + 10),
            Err(error) => settings::exit_with(&error),
        }
    }
    let (code, line) = service("tcp://10.43.0.7:50051", "");
    assert_eq!(code, Some(settings::EXIT_CODE));
    assert!(line.starts_with("error: GRPC_PORT = tcp://10.43.0.7:50051: "), "{line}");
    assert!(line.contains("Kubernetes service link") && line.contains("enableServiceLinks: false"), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");

    assert_eq!(service("7", "").0, Some(17), "the variable was not read");
    assert_eq!(service("x", "--grpc-port 5").0, Some(15), "the flag did not win");
}
