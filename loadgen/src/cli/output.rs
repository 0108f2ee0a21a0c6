//! What becomes of results: text on standard output, JSON and a page in files.
//!
//! Owns: the order of these, the names of numbered files. Must not: judge.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use loadgen::result::RunResult;
use loadgen::{html, kept, repeat, text, verdict};

use super::args::OutputArgs;

/// Writes what was asked for and tells the exit code. What was measured is printed even where a file cannot be
/// written.
pub(crate) fn finish(results: &[RunResult], args: &OutputArgs) -> anyhow::Result<ExitCode> {
    print(&shown(results, args.quiet));
    if let Some(path) = &args.json {
        for (number, result) in results.iter().enumerate() {
            let path = if results.len() > 1 { numbered(path, number + 1) } else { path.clone() };
            kept::write(&path, result)?;
        }
    }
    if let Some(path) = &args.html {
        kept::write_text(path, &html::page(results))?;
    }
    Ok(ExitCode::from(verdict::exit_code(repeat::verdict(results))))
}

fn shown(results: &[RunResult], quiet: bool) -> String {
    match (results, quiet) {
        ([one], true) => text::verdict(one),
        ([one], false) => text::render(one),
        (several, true) => repeat::verdict_text(several),
        (several, false) => {
            let details = repeat::middle(several).map(text::details).unwrap_or_default();
            format!(
                "{}{}\nThe run in the middle:\n\n{details}\n{}\n",
                repeat::verdict_text(several),
                repeat::table(several),
                repeat::conclusion_of_all(several)
            )
        }
    }
}

/// `out.json` as `out-1.json`.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let ending = path.extension().map(|ending| format!(".{}", ending.to_string_lossy())).unwrap_or_default();
    path.with_file_name(format!("{stem}-{number}{ending}"))
}

/// Standard output; whoever closed it does not want to read more.
pub(crate) fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_stands_before_the_ending() {
        assert_eq!(numbered(Path::new("kept/out.json"), 2), Path::new("kept/out-2.json"));
        assert_eq!(numbered(Path::new("out"), 1), Path::new("out-1"));
    }
}
