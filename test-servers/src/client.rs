//! A command-line client of a server, run to its end within bounds.

use std::ffi::OsStr;
use std::io::{Read, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::wait;

/// Where Debian puts programs; those of administrators are not in every user's PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command for a program of a Debian package. Its environment is empty: etcd and the clients of all three would
/// take settings from it.
pub(crate) fn command(program: &str, package: &str) -> Result<Command> {
    let Some(path) = find(program) else {
        bail!("{program} is missing: run `cargo xtask setup`, or install the Debian package {package}");
    };
    let mut command = Command::new(path);
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    Ok(command)
}

/// Where a program is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let own = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&own)
        .chain(std::env::split_paths(OsStr::new(PATH)))
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// Runs it with `input`, and gives what it printed; an error says what it complained of, or that it took longer
/// than `limit` and was ended.
pub(crate) fn run(command: &mut Command, input: &str, limit: Duration) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let ended = std::thread::scope(|scope| {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        scope.spawn(move || {
            // A client that ends before it has read all says itself why.
            let _ = stdin.map(|mut stdin| stdin.write_all(input.as_bytes()));
        });
        let out = scope.spawn(move || read(stdout));
        let err = scope.spawn(move || read(stderr));
        let status = wait_or_kill(&mut child, limit);
        (status, out.join().unwrap_or_default(), err.join().unwrap_or_default())
    });
    let (status, out, err) = ended;
    match status? {
        None => bail!("{command:?} took longer than {limit:?}"),
        Some(status) if status.success() => Ok(out),
        Some(status) => bail!("{command:?} ended with {status}: {}{}", err.trim(), out.trim()),
    }
}

/// How it ended; `None`: it had to be ended.
fn wait_or_kill(child: &mut Child, limit: Duration) -> Result<Option<std::process::ExitStatus>> {
    match wait::until(limit, || child.try_wait().transpose()) {
        Some(status) => Ok(Some(status?)),
        None => {
            child.kill()?;
            child.wait()?;
            Ok(None)
        }
    }
}

fn read(stream: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        // What could be read before an error is shown all the same.
        let _ = stream.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_failure_and_delay_are_told_apart() {
        let sh = |text: &str| {
            let mut sh = command("sh", "dash").unwrap();
            sh.args(["-c", text]);
            sh
        };
        let limit = Duration::from_secs(10);
        assert_eq!(run(&mut sh("cat"), "some words", limit).unwrap(), "some words");
        let error = run(&mut sh("echo wrong >&2; exit 3"), "", limit).unwrap_err().to_string();
        assert!(error.contains("wrong"), "{error}");
        let error = run(&mut sh("exec sleep 100"), "", Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("longer"), "{error}");
        assert!(command("no-such-program", "some-package").unwrap_err().to_string().contains("some-package"));
    }
}
