//! Puts the layers on top of each other, and finds everything in them that is no setting or has no fitting value.

use std::path::Path;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde_json::{Map, Value};

use super::Config;

/// Variables that begin with the prefix and are no settings: the path of the file itself, and what tests, benchmarks
/// and workers read.
const NOT_SETTINGS: [&str; 3] = ["config", "bin", "worker_counters"];
const TEST_PREFIX: &str = "test_";

/// Reads all layers. `flags` are the settings given on the command line, by name. The errors are sentences, all there
/// are.
pub(crate) fn load(file: Option<&Path>, flags: &Map<String, Value>) -> Result<Config, Vec<String>> {
    let mut figment = Figment::new();
    if let Some(file) = file {
        figment = figment.merge(Toml::file_exact(file));
    }
    let environment = Env::prefixed("TUREEN_")
        .filter(|name| {
            let name = name.as_str().to_ascii_lowercase();
            !NOT_SETTINGS.contains(&name.as_str()) && !name.starts_with(TEST_PREFIX)
        })
        .split("__");
    figment = figment.merge(environment).merge(Serialized::defaults(flags));

    let given: Value = match figment.extract() {
        Ok(given) => given,
        Err(errors) => return Err(errors.into_iter().map(|error| error.to_string()).collect()),
    };
    let defaults = serde_json::to_value(Config::default()).map_err(|error| vec![error.to_string()])?;
    let mut merged = defaults.clone();
    let mut errors = Vec::new();
    apply(&given, &defaults, &mut merged, &mut Vec::new(), &figment, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    serde_json::from_value(merged).map_err(|error| vec![error.to_string()])
}

/// Takes each given value over into `merged`, if the defaults know its name and all settings with it alone changed
/// can be read.
fn apply(
    given: &Value,
    known: &Value,
    merged: &mut Value,
    path: &mut Vec<String>,
    figment: &Figment,
    errors: &mut Vec<String>,
) {
    let (Value::Object(given), Value::Object(known)) = (given, known) else { return };
    for (name, value) in given {
        path.push(name.clone());
        match known.get(name) {
            None => errors.push(format!("{}: no such setting{}", place(path, figment), similar(name, known))),
            Some(below @ Value::Object(_)) if value.is_object() => {
                apply(value, below, merged, path, figment, errors);
            }
            Some(_) => match alone(path, value) {
                Ok(()) => set(merged, path, value),
                Err(error) => errors.push(format!("{}: {error}", place(path, figment))),
            },
        }
        path.pop();
    }
}

/// Whether the defaults with this one value changed can be read.
fn alone(path: &[String], value: &Value) -> Result<(), String> {
    let mut config = serde_json::to_value(Config::default()).map_err(|error| error.to_string())?;
    set(&mut config, path, value);
    serde_json::from_value::<Config>(config).map(drop).map_err(|error| error.to_string())
}

fn set(config: &mut Value, path: &[String], value: &Value) {
    let mut at = config;
    for name in path {
        let Some(below) = at.as_object_mut().and_then(|fields| fields.get_mut(name)) else { return };
        at = below;
    }
    *at = value.clone();
}

fn place(path: &[String], figment: &Figment) -> String {
    let name = path.join(".");
    match figment.find_metadata(&name) {
        Some(metadata) if metadata.name.contains("TOML") => {
            let file = metadata.source.as_ref().map(|source| source.to_string()).unwrap_or_default();
            format!("{name} ({file})")
        }
        Some(metadata) if metadata.name.contains("nvironment") => {
            format!("{name} (TUREEN_{} in the environment)", path.join("__").to_uppercase())
        }
        _ => format!("{name} (--{})", name.replace(['_', '.'], "-")),
    }
}

/// A known name that begins alike, as a hint.
fn similar(name: &str, known: &Map<String, Value>) -> String {
    let start: String = name.chars().take(4).collect();
    let alike: Vec<_> = known.keys().filter(|key| key.starts_with(&start)).map(String::as_str).collect();
    if alike.is_empty() { String::new() } else { format!("; did you mean {}?", alike.join(" or ")) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::json;

    use super::*;

    fn flags(value: Value) -> Map<String, Value> {
        value.as_object().cloned().expect("object")
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::Builder::new().suffix(".toml").tempfile().expect("file");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = file("workers = 3\nmedia_ports = \"1000-2000\"\n[limits.room]\npeers_per_room = 7\n");
        let config = load(Some(file.path()), &flags(json!({ "workers": 5 }))).expect("valid");
        assert_eq!((config.workers, config.media_ports.as_str()), (5, "1000-2000"));
        assert_eq!(config.limits.room.peers_per_room, 7);
        assert_eq!(config.limits.room.producers_per_peer, Config::default().limits.room.producers_per_peer);
    }

    #[test]
    fn everything_wrong_is_said_at_once_with_its_place() {
        let file = file(
            "workerz = 1\nworkers = \"many\"\nlisten = \"nowhere\"\n[limits]\nroom = { peers = 3 }\n[extra]\nx = 1\n",
        );
        let errors = load(Some(file.path()), &Map::new()).expect_err("wrong");
        assert_eq!(errors.len(), 5, "{errors:#?}");
        let all = errors.join("\n");
        assert!(all.contains("workerz") && all.contains("did you mean") && all.contains("workers"));
        assert!(all.contains("limits.room.peers") && all.contains("extra") && all.contains("listen"));
    }

    #[test]
    fn a_missing_file_is_an_error() {
        assert!(load(Some(Path::new("/nonexistent/tureen.toml")), &Map::new()).is_err());
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let config = Config::default();
        let printed = file(&config.to_toml().expect("printed"));
        assert_eq!(load(Some(printed.path()), &Map::new()), Ok(config));
    }
}
