//! The table of settings in the README has each flag with its variable and its default, and nothing else.

use clap::{ArgAction, CommandFactory as _};

use crate::args::Args;

const README: &str = include_str!("../README.md");

/// Variable, flag and default of each row.
fn told() -> Vec<[String; 3]> {
    let table = README.lines().skip_while(|line| !line.starts_with("| key | variable | flag | default |"));
    let rows = table.skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect());
    let rows = cells.map(|cells: Vec<String>| match &cells[..] {
        [key, variable, flag, default, _, _] if key == "-" => {
            [variable.clone(), flag.clone(), default.clone()]
        }
        other => panic!("no row of ours: {other:?}"),
    });
    rows.collect()
}

fn in_code(name: impl std::fmt::Display) -> String {
    format!("`{name}`")
}

#[test]
fn the_table_of_settings_is_true() {
    let command = Args::command();
    let ours = command.get_arguments().filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version"));
    let mut expected: Vec<[String; 3]> = ours
        .map(|arg| {
            let variable = arg.get_env().map_or("-".to_owned(), |name| in_code(name.display()));
            let default = match arg.get_default_values().first() {
                _ if matches!(arg.get_action(), ArgAction::SetTrue) => "off".to_owned(),
                Some(value) => in_code(value.display()),
                None => "none".to_owned(),
            };
            [variable, in_code(format!("--{}", arg.get_long().expect("a long flag"))), default]
        })
        .collect();
    let mut told = told();
    expected.sort();
    told.sort();
    assert_eq!(told, expected);
}
