//! The tables of settings in the READMEs of the services say what the code has: every key, variable and flag, each with
//! its true default, and nothing else. The tables of variables in the READMEs of the whole say the same.
//!
//! A default in `code` is set by key and by flag, which must change nothing; one in words must be among `IN_WORDS`.
//! Another value is set by key, by flag and by variable, which must all do the same.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use clap::{ArgAction, CommandFactory as _, Parser as _};

/// Defaults that no value says: a row's key, or its flag where it has none, and the words of its table.
const IN_WORDS: [(&str, &str); 11] = [
    ("--config", "`./config.yaml`, where there is one"),
    ("connect.node_addr", "where gRPC listens"),
    ("connect.public_ws_url", "ws://localhost:HTTP_PORT/ws on one machine"),
    ("connect.shards", "one a core"),
    ("database.ca_file", "the system's"),
    ("etcd.ca_file", "the system's"),
    ("push.addr", "where gRPC listens"),
    ("push.threads", "one for every two cores"),
    ("redis.ca_file", "the system's"),
    ("server.addr", "where gRPC listens"),
    ("server.peers", "none"),
];

/// Read by the logs alone.
const NEITHER_KEY_NOR_FLAG: (&str, &str) = ("RUST_LOG", "info");

/// Sections that the services read by `settings::stores`.
const STORES: [&str; 3] = ["database", "redis", "etcd"];

/// Values of all kinds; the first that a setting takes, and that is not its default, is set in its place.
const OTHER_VALUES: [&str; 11] = [
    "7",
    "70001",
    "11s",
    "127.0.0.2",
    "a:1",
    "ws://a:1/ws",
    "epoll",
    "true",
    "required",
    "x1",
    // A file that can be read and is no larger than a password may be.
    concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
];

/// Keys that stand only beside another one, and a value of that.
const COMPANIONS: [(&str, &str, &str); 6] = [
    ("etcd.user", "etcd.password", "x1"),
    ("etcd.password", "etcd.user", "x1"),
    ("etcd.password_file", "etcd.user", "x1"),
    ("etcd.cert_file", "etcd.key_file", OTHER_VALUES[10]),
    ("etcd.key_file", "etcd.cert_file", OTHER_VALUES[10]),
    ("redis.user", "redis.password", "x1"),
];

/// A service, as its crate has it.
struct Service {
    folder: &'static str,
    sections: &'static [&'static str],
    command: fn() -> clap::Command,
    /// What it is started with, as text, by the words of a command line and the text of a file.
    settings: fn(&[&str], &str) -> Result<String, String>,
}

const SERVICES: [Service; 3] = [
    Service {
        folder: "control",
        sections: &["server", "room", "database", "redis", "etcd"],
        command: control::Args::command,
        settings: of_control,
    },
    Service {
        folder: "connect-uring",
        sections: &["connect", "etcd"],
        command: connect_uring::Args::command,
        settings: of_node,
    },
    Service { folder: "push", sections: &["push", "etcd"], command: push::Args::command, settings: of_push },
];

fn of_control(words: &[&str], text: &str) -> Result<String, String> {
    let line = ["control"].into_iter().chain(words.iter().copied());
    let args = control::Args::try_parse_from(line).map_err(|error| error.to_string())?;
    let read = control::Settings::from_args(&args, &file(text)?);
    read.map(|settings| format!("{settings:?}")).map_err(|error| error.to_string())
}

fn of_node(words: &[&str], text: &str) -> Result<String, String> {
    let line = ["connect-uring"].into_iter().chain(words.iter().copied());
    let args = connect_uring::Args::try_parse_from(line).map_err(|error| error.to_string())?;
    let mut settings = args.settings(&file(text)?).map_err(|error| error.to_string())?;
    // Where a value came from is no value.
    settings.connections_key = None;
    Ok(format!("{settings:?}"))
}

fn of_push(words: &[&str], text: &str) -> Result<String, String> {
    let line = ["push"].into_iter().chain(words.iter().copied());
    let args = push::Args::try_parse_from(line).map_err(|error| error.to_string())?;
    let read = push::Settings::new(args, &file(text)?);
    read.map(|settings| format!("{settings:?}")).map_err(|error| error.to_string())
}

fn of_stores(text: &str) -> Result<String, String> {
    let read = settings::stores(&file(text)?, true);
    read.map(|stores| format!("{stores:?}")).map_err(|error| error.to_string())
}

fn file(text: &str) -> Result<settings::File, String> {
    settings::parse(text, "config.yaml").map_err(|error| error.to_string())
}

/// A row of a service's table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    key: Option<String>,
    variable: Option<String>,
    flag: Option<String>,
    default: String,
}

impl Row {
    /// The default, where it is one value in `code`.
    fn value(&self) -> Option<&str> {
        in_code(&self.default)
    }

    /// What the row is called where it has no key.
    fn name(&self) -> &str {
        self.key.as_deref().or(self.flag.as_deref()).or(self.variable.as_deref()).unwrap_or("nothing")
    }

    fn is_of_a_store(&self) -> bool {
        self.key
            .as_deref()
            .is_some_and(|key| STORES.iter().any(|store| key.starts_with(&format!("{store}."))))
    }

    fn says_in_words_what_is(&self) -> bool {
        let known = IN_WORDS.contains(&(self.name(), self.default.as_str()));
        known || (self.is_of_a_store() && self.default == "none")
    }
}

fn in_code(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`').filter(|inner| !inner.contains('`'))
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of all tables whose head begins so.
fn table_rows(text: &str, head: &str) -> Vec<Vec<String>> {
    let (mut rows, mut inside) = (Vec::new(), false);
    for line in text.lines() {
        if line.starts_with(head) {
            inside = true;
        } else if !line.starts_with('|') {
            inside = false;
        } else if inside && !line.starts_with("| ---") {
            let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
            rows.push(cells.collect());
        }
    }
    rows
}

fn rows_of(folder: &str) -> Vec<Row> {
    let name = |cell: &String| in_code(cell).map(str::to_owned);
    let rows = table_rows(&read(&format!("{folder}/README.md")), "| key | variable | flag | default |");
    assert!(!rows.is_empty(), "{folder}/README.md has no table of settings");
    rows.iter()
        .map(|cells| {
            assert_eq!(cells.len(), 6, "{folder}: {cells:?}");
            let names = cells[..3].iter().all(|cell| cell == "-" || in_code(cell).is_some());
            assert!(names, "{folder}: a name in `code`, or -: {cells:?}");
            let (key, variable, flag) = (name(&cells[0]), name(&cells[1]), name(&cells[2]));
            Row { key, variable, flag, default: cells[3].clone() }
        })
        .collect()
}

/// The keys of a section and of those in it; `None` where it is no section. The refusal of an unknown key lists them.
fn known_keys(section: &str) -> Option<Vec<String>> {
    let unknown = format!("{section}.surely_there_is_no_such_key");
    let error = settings::parse(&text(&[(&unknown, "1")]), "config.yaml").unwrap_err();
    let (_, known) = error.remedy.split_once("known here: ")?;
    let paths = known.split(", ").map(|key| format!("{section}.{key}"));
    Some(paths.flat_map(|path| known_keys(&path).unwrap_or_else(|| vec![path])).collect())
}

/// A file that sets these keys of one section.
fn text(entries: &[(&str, &str)]) -> String {
    let (section, _) = entries[0].0.rsplit_once('.').unwrap();
    let mut text = String::new();
    for (depth, name) in section.split('.').enumerate() {
        text += &format!("{}{name}:\n", "  ".repeat(depth));
    }
    for (key, value) in entries {
        let (depth, leaf) = (key.matches('.').count(), key.rsplit('.').next().unwrap());
        let value = if *key == "etcd.endpoints" { format!("[{value}]") } else { (*value).to_owned() };
        text += &format!("{}{leaf}: {value}\n", "  ".repeat(depth));
    }
    text
}

fn sorted<T: Ord + std::fmt::Debug>(names: impl IntoIterator<Item = T>, what: &str) -> Vec<T> {
    let mut names: Vec<T> = names.into_iter().collect();
    names.sort();
    let doubled = names.windows(2).find(|pair| pair[0] == pair[1]);
    assert!(doubled.is_none(), "{what}: {doubled:?} stands there twice");
    names
}

#[test]
fn each_key_variable_and_flag_stands_in_its_table() {
    for service in SERVICES {
        let (folder, rows) = (service.folder, rows_of(service.folder));
        let known = service.sections.iter().flat_map(|section| known_keys(section).expect("a section"));
        let told = rows.iter().filter_map(|row| row.key.clone());
        assert_eq!(sorted(told, folder), sorted(known, folder), "keys of {folder}");

        let command = (service.command)();
        let flags: BTreeMap<String, Option<String>> = command
            .get_arguments()
            .filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version"))
            .map(|arg| {
                let variable = arg.get_env().map(|name| name.to_string_lossy().into_owned());
                (format!("--{}", arg.get_long().expect("a long flag")), variable)
            })
            .collect();
        let told = rows.iter().filter_map(|row| row.flag.clone());
        assert_eq!(sorted(told, folder), flags.keys().cloned().collect::<Vec<_>>(), "flags of {folder}");
        for row in &rows {
            let expected = match &row.flag {
                Some(flag) => flags[flag].clone(),
                None if row.is_of_a_store() => continue,
                None if row.key.is_some() => None,
                None => Some(NEITHER_KEY_NOR_FLAG.0.to_owned()),
            };
            assert_eq!(row.variable, expected, "{folder}: the variable of {}", row.name());
        }
    }
}

#[test]
fn each_default_is_true_and_key_and_flag_do_the_same() {
    for service in SERVICES {
        let (folder, command) = (service.folder, (service.command)());
        let defaults = (service.settings)(&[], "").unwrap();
        for row in rows_of(folder).iter().filter(|row| !row.is_of_a_store()) {
            let name = row.name();
            let arg = row.flag.as_deref().map(|flag| {
                command.get_arguments().find(|arg| arg.get_long() == flag.strip_prefix("--")).unwrap()
            });
            let Some(key) = &row.key else {
                let switch = arg.is_some_and(|arg| matches!(arg.get_action(), ArgAction::SetTrue));
                let by_clap = arg.and_then(|arg| arg.get_default_values().first());
                let is_true = match (by_clap, row.value()) {
                    (Some(default), Some(told)) if !switch => default.to_string_lossy() == told,
                    (None, Some(told)) => (name, told) == NEITHER_KEY_NOR_FLAG,
                    (_, None) => (switch && row.default == "off") || row.says_in_words_what_is(),
                    _ => false,
                };
                assert!(is_true, "{folder}: {name} is not by default {}", row.default);
                continue;
            };
            let by_key = |value: &str| (service.settings)(&[], &text(&[(key, value)]));
            let by_flag =
                |value: &str| row.flag.as_deref().map(|flag| (service.settings)(&[flag, value], ""));
            match row.value() {
                Some(value) => {
                    assert_eq!(by_key(value).as_ref(), Ok(&defaults), "{folder}: {key} = {value}");
                    let same = by_flag(value).is_none_or(|read| read.as_ref() == Ok(&defaults));
                    assert!(same, "{folder}: {name} is not by default {value}, by its flag");
                }
                None => {
                    assert!(row.says_in_words_what_is(), "{folder}: {key} is not by default {}", row.default)
                }
            }
            let other = OTHER_VALUES.into_iter().find_map(|value| {
                by_key(value).ok().filter(|read| *read != defaults).map(|read| (value, read))
            });
            let (value, read) = other.unwrap_or_else(|| panic!("{folder}: no value changes {key}"));
            if let Some(by_flag) = by_flag(value) {
                assert_eq!(by_flag, Ok(read), "{folder}: {name} = {value} by key and by flag");
            }
        }
    }
}

/// What the stores are where this variable is set beside this file: read in a process of its own.
fn by_variable(name: &str, value: &str, file: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "each_store_is_set_by_its_keys_and_variables", "--nocapture"])
        .env("TABLES_FILE", file)
        .env(name, value)
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let (_, told) = printed.split_once("stores: ").unwrap_or_else(|| panic!("{name}: {printed}"));
    told.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn each_store_is_set_by_its_keys_and_variables() {
    if let Ok(file) = std::env::var("TABLES_FILE") {
        println!("stores: {}", of_stores(&file).unwrap_or_else(|error| error));
        return;
    }
    let rows: Vec<Row> = rows_of("control").into_iter().filter(Row::is_of_a_store).collect();
    for row in &rows {
        let (key, variable) = (row.name(), row.variable.as_deref().expect("a variable"));
        let companion = COMPANIONS.iter().find(|(of, ..)| *of == key).map(|&(_, key, value)| (key, value));
        let with =
            |value: &str| text(&[Some((key, value)), companion].into_iter().flatten().collect::<Vec<_>>());
        let section = format!("{}: {{}}\n", key.split('.').next().unwrap());
        let without = companion.map_or(section.clone(), |companion| text(&[companion]));
        match row.value() {
            Some(value) => assert_eq!(of_stores(&with(value)), of_stores(&section), "{key} = {value}"),
            None => assert!(row.says_in_words_what_is(), "{key} is not by default {}", row.default),
        }
        let other = OTHER_VALUES.into_iter().find_map(|value| {
            let read = of_stores(&with(value)).ok()?;
            (Ok(&read) != of_stores(&without).as_ref()).then_some((value, read))
        });
        let (value, read) = other.unwrap_or_else(|| panic!("no value changes {key}"));
        assert_eq!(by_variable(variable, value, &without), read, "{key} = {value} by key and by {variable}");
    }
    let etcd: Vec<&Row> = rows.iter().filter(|row| row.name().starts_with("etcd.")).collect();
    for folder in ["connect-uring", "push"] {
        let told = rows_of(folder);
        let told: Vec<&Row> = told.iter().filter(|row| row.is_of_a_store()).collect();
        assert_eq!(told, etcd, "etcd in {folder}/README.md");
    }
}

/// Each variable with its defaults, of which services may have several, in the order of the services.
fn variables() -> BTreeMap<String, Vec<String>> {
    let mut variables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for folder in ["control", "connect-uring", "push", "biz"] {
        for row in rows_of(folder) {
            let Some(variable) = row.variable else { continue };
            let defaults = variables.entry(variable).or_default();
            if !defaults.contains(&row.default) {
                defaults.push(row.default);
            }
        }
    }
    variables
}

/// Whether a cell of the whole's README says this default; words may be those of another language.
fn says(cell: &str, default: &str) -> bool {
    match in_code(default) {
        Some(value) => in_code(cell) == Some(value),
        None => cell == default || (in_code(cell).is_none() && !cell.is_ascii()),
    }
}

#[test]
fn the_readmes_of_the_whole_say_the_same_of_variables() {
    let known = variables();
    assert!(known.len() > 40, "only {} variables were found", known.len());
    for (readme, head) in [("README.md", "| variable | of"), ("README.zh.md", "| 变量 | 用于 |")] {
        let mut told = BTreeSet::new();
        for row in table_rows(&read(readme), head) {
            let [names, _, defaults] = &row[..] else { panic!("{readme}: {row:?}") };
            let names: Vec<&str> =
                names.split([',', '、']).map(|name| in_code(name.trim()).unwrap()).collect();
            let given: Vec<&str> = defaults.split([',', '、']).map(str::trim).collect();
            let mut expected: Vec<&String> = Vec::new();
            for name in &names {
                assert!(told.insert((*name).to_owned()), "{readme}: {name} stands there twice");
                let defaults = known.get(*name).unwrap_or_else(|| panic!("{readme}: there is no {name}"));
                assert!(names.len() == 1 || defaults.len() == 1, "{readme}: {name} needs a row of its own");
                expected.extend(defaults);
            }
            // One default may stand for all.
            let given = if given.len() == 1 { vec![given[0]; expected.len()] } else { given };
            let same = given.len() == expected.len()
                && given.iter().zip(&expected).all(|(cell, default)| says(cell, default));
            assert!(same, "{readme}: {names:?} are by default {expected:?}, not {given:?}");
        }
        let missing: Vec<&String> = known.keys().filter(|name| !told.contains(*name)).collect();
        assert_eq!(missing, Vec::<&String>::new(), "{readme} does not tell them");
    }
}
