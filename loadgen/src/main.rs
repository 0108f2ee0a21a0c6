//! The load generator as a command: `loadgen run`, `slo`, `compare`, `report` and what helps with them.
//!
//! Owns: nothing but the start. Talks to: `cli`.

mod cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
