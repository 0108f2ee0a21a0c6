//! Where scenarios come from: built in, from a file, changed by `key=value`.
//!
//! Owns: the built-in ones and the overrides. Must not: know what keys mean. Talks to: `scenario`.

use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

use crate::scenario::Scenario;

macro_rules! builtin {
    ($($name:literal),* $(,)?) => {
        /// The built-in scenarios: name and text.
        const BUILTIN: &[(&str, &str)] = &[$(($name, include_str!(concat!("../scenarios/", $name, ".yaml")))),*];
    };
}

builtin!(
    "seed",
    "idle",
    "ramp",
    "room",
    "user",
    "broadcast",
    "many-rooms",
    "burst",
    "churn",
    "slow-readers",
    "reconnect-storm",
    "node-loss",
    "drain",
    "leave-room",
);

impl Scenario {
    /// The names of the built-in scenarios.
    pub fn names() -> Vec<&'static str> {
        BUILTIN.iter().map(|(name, _)| *name).collect()
    }

    /// A built-in scenario, with overrides such as `stages.0.loads.0.rate=100`.
    pub fn builtin(name: &str, overrides: &[String]) -> anyhow::Result<Self> {
        let text = Self::builtin_text(name);
        let names = || Self::names().join(", ");
        let text =
            text.with_context(|| format!("there is no scenario `{name}`; built in are {}", names()))?;
        Self::from_text(text, name, overrides)
    }

    /// The text of a built-in scenario.
    pub fn builtin_text(name: &str) -> Option<&'static str> {
        BUILTIN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
    }

    /// A scenario from a YAML file.
    pub fn from_file(path: &Path, overrides: &[String]) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read scenario {name}"))?;
        Self::from_text(&text, &name, overrides)
    }

    /// A scenario from YAML text; `name` stands in what is said of errors.
    pub fn from_text(text: &str, name: &str, overrides: &[String]) -> anyhow::Result<Self> {
        // First as it is, so that an error has its place in the file.
        let mut scenario: Self =
            serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("scenario {name}: {error}"))?;
        if !overrides.is_empty() {
            let mut tree = serde_json::to_value(&scenario)?;
            for text in overrides {
                set(&mut tree, text)?;
            }
            scenario = serde_json::from_value(tree)
                .map_err(|error| anyhow::anyhow!("scenario {name}, with {}: {error}", overrides.join(" ")))?;
        }
        scenario.check().with_context(|| format!("scenario {name}"))?;
        Ok(scenario)
    }

    /// Its parameters by dotted path, as they were run.
    pub fn parameters(&self) -> std::collections::BTreeMap<String, Value> {
        let mut flat = std::collections::BTreeMap::new();
        if let Ok(tree) = serde_json::to_value(self) {
            flatten(String::new(), tree, &mut flat);
        }
        flat
    }
}

/// Sets the value at a dotted path; steps into lists are numbers.
fn set(tree: &mut Value, text: &str) -> anyhow::Result<()> {
    let (path, value) = text
        .split_once('=')
        .with_context(|| format!("`{text}` sets nothing: give key=value, such as ramp.rate=500"))?;
    let mut place = tree;
    for step in path.split('.') {
        place = match place {
            Value::Object(fields) => fields.entry(step).or_insert(Value::Null),
            Value::Array(items) => {
                let count = items.len();
                let item = step.parse::<usize>().ok().and_then(|at| items.get_mut(at));
                item.with_context(|| format!("{path}: `{step}` is no place in a list of {count}"))?
            }
            Value::Null => {
                *place = Value::Object(serde_json::Map::new());
                let Value::Object(fields) = place else { unreachable!("it was just made one") };
                fields.entry(step).or_insert(Value::Null)
            }
            _ => anyhow::bail!("{path}: there is nothing below the key before `{step}`"),
        };
    }
    *place = serde_saphyr::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok(())
}

fn flatten(path: String, tree: Value, flat: &mut std::collections::BTreeMap<String, Value>) {
    let below = |step: &str| if path.is_empty() { step.to_owned() } else { format!("{path}.{step}") };
    match tree {
        Value::Object(fields) => {
            fields.into_iter().for_each(|(key, value)| flatten(below(&key), value, flat));
        }
        Value::Array(items) => {
            items
                .into_iter()
                .enumerate()
                .for_each(|(at, value)| flatten(below(&at.to_string()), value, flat));
        }
        leaf => drop(flat.insert(path, leaf)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(overrides: &[&str]) -> anyhow::Result<Scenario> {
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        Scenario::builtin("room", &overrides)
    }

    #[test]
    fn all_that_is_built_in_can_be_read() {
        for name in Scenario::names() {
            let scenario = Scenario::builtin(name, &[]).unwrap();
            assert_eq!(scenario.name, name);
        }
    }

    #[test]
    fn overrides_reach_every_place() {
        let scenario =
            room(&["ramp.rate=500", "stages.0.loads.0.rate=7", "clients.0.reconnect.max=3"]).unwrap();
        assert_eq!((scenario.ramp.rate, scenario.stages[0].loads[0].rate), (500.0, 7.0));
        assert_eq!(scenario.clients[0].reconnect.map(|jitter| (jitter.min, jitter.max)), Some((0.5, 3.0)));
        assert_eq!(scenario.parameters()["stages.0.loads.0.rate"], 7.0);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("ramp.rte=500", "rte"),
            ("stages.0.loads.0.via=pigeon", "pigeon"),
            ("stages.9.seconds=1", "9"),
            ("clients.0.deaf=2", "clients.0.deaf"),
            ("ramp.rate=0", "ramp.rate"),
            ("ramp", "key=value"),
        ] {
            let error = format!("{:#}", room(&[text]).unwrap_err());
            assert!(error.contains(named), "{text}: {error}");
        }
        let error = format!("{:#}", Scenario::from_text("name: x\nabuot: y", "x.yaml", &[]).unwrap_err());
        assert!(error.contains("abuot") && error.contains("x.yaml"), "{error}");
    }
}
