//! Where in `config.yaml` an error is, in words that a person looks for: section, key, line.
//!
//! Owns: the wording of what the YAML reader refuses. Talks to: `file`.

use serde_saphyr::Error;

use crate::SettingError;

/// How many single edits still make two keys neighbours.
const NEAR: usize = 3;

/// Says what is wrong with `text`, which errors call `name`.
pub(crate) fn explain(text: &str, name: &str, error: &Error) -> SettingError {
    let error = error.without_snippet();
    let line = error.location().map_or(0, |location| location.line() as usize);
    let place = Place::of(text, line);
    let at = if line == 0 { name.to_owned() } else { format!("{name} line {line}") };
    match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            let section = place.section_of(field);
            let known = match nearest(field, expected) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("known here: {}", expected.join(", ")),
            };
            SettingError::key_only(format!("{section}{field}"), format!("unknown key in {at}; {known}"))
        }
        Error::DuplicateMappingKey { key: Some(key), .. } => SettingError::key_only(
            format!("{}{key}", place.section_of(key)),
            format!("is there a second time in {at}: take one out"),
        ),
        _ => {
            let reason = reason(error);
            match place.key {
                // The reason may tell what stands there.
                Some(key) if place.secret => SettingError::key_only(key, format!("cannot be read in {at}")),
                Some(key) => SettingError { key, value: place.value, remedy: format!("{reason} ({at})") },
                None => SettingError::key_only(at, reason),
            }
        }
    }
}

/// The error itself, without the line that the YAML reader adds.
fn reason(error: &Error) -> String {
    match error {
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => {
            format!("is {unexpected}: give {expected}")
        }
        Error::InvalidScalar { ty, .. } => format!("give {ty}"),
        Error::Message { msg, .. } => msg.clone(),
        other => other.to_string().lines().next().unwrap_or("cannot be read").to_owned(),
    }
}

/// What stands on a line: the path of its key, and its value.
#[derive(Debug, Default, PartialEq)]
struct Place {
    key: Option<String>,
    value: Option<String>,
    /// A password stands on the line, or in a section around it.
    secret: bool,
    /// The keys around it, outermost first.
    sections: Vec<String>,
}

impl Place {
    /// Looks for the key on the line (from 1), and above it for the keys that are indented less.
    fn of(text: &str, line: usize) -> Self {
        let lines: Vec<&str> = text.lines().take(line).collect();
        let Some(last) = lines.last().filter(|_| line > 0) else { return Self::default() };
        let mut depth = indent(last);
        let mut sections = Vec::new();
        for above in lines[..lines.len() - 1].iter().rev() {
            if let Some((key, _)) = key_and_value(above).filter(|_| indent(above) < depth) {
                depth = indent(above);
                sections.insert(0, key.to_owned());
            }
        }
        let Some((key, value)) = key_and_value(last) else { return Self { sections, ..Self::default() } };
        let path = sections.iter().map(String::as_str).chain([key]).collect::<Vec<_>>().join(".");
        let secret = [path.as_str(), value].iter().any(|text| text.contains("password"));
        let value = (!secret && !value.is_empty()).then(|| value.to_owned());
        Self { key: Some(path), value, secret, sections }
    }

    /// The sections around `field`, each with a dot behind it; none where they are not sure (several keys on one
    /// line).
    fn section_of(&self, field: &str) -> String {
        match &self.key {
            Some(key) if key.rsplit('.').next() == Some(field) => {
                self.sections.iter().map(|section| format!("{section}.")).collect()
            }
            _ => String::new(),
        }
    }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn key_and_value(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let (key, value) = line.split_once(':')?;
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let value = value.split(" #").next().unwrap_or("").trim();
    plain.then_some((key, value))
}

/// The known key that needs the fewest edits, where that are few.
fn nearest<'a>(field: &str, known: &[&'a str]) -> Option<&'a str> {
    let (distance, near) = known.iter().map(|known| (edits(field, known), *known)).min()?;
    (distance <= NEAR && distance < near.len()).then_some(near)
}

/// Insertions, deletions and replacements from one word to the other.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use crate::parse;

    fn refused(text: &str) -> String {
        let line = parse(text, "config.yaml").expect_err(text).to_string();
        assert!(!line.contains('\n'), "more than one line: {line}");
        line
    }

    #[test]
    fn an_unknown_key_names_key_place_and_neighbour() {
        assert_eq!(
            refused("room:\n  default_max_user: 5\n"),
            "room.default_max_user: unknown key in config.yaml line 2; did you mean default_max_users?"
        );
        assert_eq!(
            refused("sever:\n  port: 5\n"),
            "sever: unknown key in config.yaml line 1; did you mean server?"
        );
        assert_eq!(
            refused("room:\n  completely_else: 5\n"),
            "room.completely_else: unknown key in config.yaml line 2; known here: default_max_users, cache_ttl, \
             max_rooms"
        );
        assert!(refused("room: {default_max_user: 5}").starts_with("default_max_user: unknown key"));
    }

    #[test]
    fn a_deep_key_is_named_with_its_sections() {
        assert_eq!(
            refused("connect:\n  shards: 1\n  limits:\n    # a note\n    drian: 5s\n"),
            "connect.limits.drian: unknown key in config.yaml line 5; did you mean drain?"
        );
    }

    #[test]
    fn a_bad_value_names_key_value_and_remedy() {
        for (text, start, part) in [
            ("server:\n  port: 70000\n", "server.port = 70000: ", "line 2"),
            ("server:\n  port: tcp # oh\n", "server.port = tcp: ", "line 2"),
            ("room:\n  cache_ttl: 300\n", "room.cache_ttl = 300: ", "such as 300s"),
            ("push:\n  bind: everywhere\n", "push.bind = everywhere: ", "IP address"),
            ("push:\n  controller_address: nowhere\n", "push.controller_address = nowhere: ", "host:port"),
            ("room:\n  default_max_users: -1\n", "room.default_max_users = -1: ", "line 2"),
        ] {
            let line = refused(text);
            assert!(line.starts_with(start) && line.contains(part), "{line}");
        }
    }

    #[test]
    fn a_key_that_is_there_twice_is_refused() {
        assert!(
            refused("room:\n  max_rooms: 5\n  max_rooms: 6\n")
                .contains("a second time in config.yaml line 3")
        );
    }

    #[test]
    fn a_text_that_is_no_yaml_is_refused_with_its_line() {
        assert!(refused("room:\n  a: [1\nb: }\n").contains("config.yaml"));
        assert!(refused("just words").contains("config.yaml line 1"));
    }

    #[test]
    fn a_password_that_cannot_be_read_is_not_shown() {
        for (text, start) in [
            ("redis:\n  password: [hunter2]\n", "redis.password: "),
            ("database: {port: 99999, password: hunter2}\n", "database: "),
            ("database: {password: hunter2, port: 99999}\n", "database: "),
            ("database:\n  password: {is: hunter2}\n", "database.password: "),
            ("database:\n  password:\n    is: [hunter2]\n", "database.password"),
        ] {
            let line = refused(text);
            assert!(line.starts_with(start) && !line.contains("hunter2"), "{line}");
        }
    }
}
