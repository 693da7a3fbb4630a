//! Reads the environment as containers set it: each variable becomes an argument before those of
//! the command line.
//!
//! An empty variable counts as unset, as `KEY=` in a compose file is meant. White space around a
//! value is ignored, such as the newline at the end of a secret.

use std::ffi::{OsStr, OsString};

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, Command, CommandFactory, FromArgMatches};

use crate::config::Config;

/// API keys, separated by commas. There is no such option, because other users of the machine can
/// read the options of a process.
const API_KEYS: &str = "GTE_API_KEYS";

/// The settings given by `arguments` (the first is the program's name) and by the environment. If
/// both give a value, the argument wins. Ends the process for `--help`, `--version` and wrong
/// arguments, as clap does.
///
/// # Errors
/// One line that names the variable.
pub fn config(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Config, String> {
    read(arguments.into_iter().collect(), variable).map_err(|refusal| match refusal {
        Refusal::Variable(line) => line,
        Refusal::Arguments(e) => e.exit(),
    })
}

/// Why there are no settings.
#[derive(Debug)]
enum Refusal {
    /// A wrong variable, in one line.
    Variable(String),
    /// Wrong arguments, or a request for help.
    Arguments(clap::Error),
}

impl From<clap::Error> for Refusal {
    fn from(e: clap::Error) -> Self {
        Self::Arguments(e)
    }
}

fn read(given: Vec<OsString>, variable: impl Fn(&str) -> Option<OsString>) -> Result<Config, Refusal> {
    // The help text names the variables, which `plain` does not know.
    let help = |e: clap::Error| Config::command().try_get_matches_from(&given).err().unwrap_or(e);
    let on_command_line = plain().ignore_errors(true).try_get_matches_from(&given).map_err(help)?;
    let mut all = given.clone();
    for option in Config::command().get_arguments() {
        let Some(name) = option.get_env().and_then(OsStr::to_str) else { continue };
        let Some(value) = variable(name) else { continue };
        // An option on the command line overrides its variable.
        if on_command_line.value_source(option.get_id().as_str()) == Some(ValueSource::CommandLine) {
            continue;
        }
        if let Some(argument) = argument(option, name, value)? {
            all.insert(1.min(all.len()), argument.into());
        }
    }
    let mut config = Config::from_arg_matches(&plain().try_get_matches_from(all)?)?;
    if let Some(keys) = variable(API_KEYS).filter(|keys| !keys.is_empty()) {
        let keys = keys.into_string().map_err(|_| Refusal::Variable(format!("{API_KEYS} is not UTF-8")))?;
        config.api_keys = keys.split(',').map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned).collect();
        if config.api_keys.is_empty() {
            // An empty list of keys must not start a server that is open to everybody.
            return Err(Refusal::Variable(format!("{API_KEYS} is set but contains no key")));
        }
    }
    Ok(config)
}

/// A variable as the argument it stands for, or `None` if it has no effect.
fn argument(option: &Arg, name: &str, value: OsString) -> Result<Option<String>, Refusal> {
    let refused = |reason: &str| Err(Refusal::Variable(format!("{name}: {reason}")));
    let Ok(value) = value.into_string() else { return refused("not UTF-8") };
    let (value, flag) = (value.trim(), option.get_long().unwrap_or_default());
    if value.is_empty() {
        return Ok(None);
    }
    if matches!(option.get_action(), ArgAction::SetTrue) {
        return match value.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" | "y" | "t" => Ok(Some(format!("--{flag}"))),
            "0" | "false" | "no" | "off" | "n" | "f" => Ok(None),
            _ => refused(&format!("{value:?}, expected 1, true, yes or on, or 0, false, no or off")),
        };
    }
    let argument = format!("--{flag}={value}");
    // Checked alone first: the message of clap would name the flag, which the user did not write.
    match plain().try_get_matches_from(["gte-server", &argument]) {
        Err(e) if matches!(e.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) => {
            let text = e.to_string();
            refused(text.lines().next().unwrap_or_default().trim_start_matches("error: "))
        }
        _ => Ok(Some(argument)),
    }
}

/// The command without its environment variables.
fn plain() -> Command {
    Config::command().mut_args(|argument| argument.env(Resettable::Reset))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value other than the default for each variable.
    const VALUES: [(&str, &str); 34] = [
        ("GTE_MODEL", "thenlper/gte-large-zh"),
        ("GTE_REVISION", "main"),
        ("GTE_HUB", "modelscope"),
        ("GTE_OFFLINE", "1"),
        ("GTE_DOWNLOAD", "1"),
        ("GTE_DEVICE", "cuda:1"),
        ("GTE_PRECISION", "f32"),
        ("GTE_POOLING", "mean"),
        ("GTE_THREADS", "3"),
        ("GTE_MAX_LENGTH", "77"),
        ("GTE_MAX_BATCH_TOKENS", "77"),
        ("GTE_HOST", "127.0.0.1"),
        ("GTE_PORT", "77"),
        ("GTE_METRICS_PORT", "77"),
        ("GTE_CORS_ORIGIN", "https://a.example,https://b.example"),
        ("GTE_TLS_CERT", "cert.pem"),
        ("GTE_TLS_KEY", "key.pem"),
        ("GTE_MAX_CONNECTIONS", "77"),
        ("GTE_HEADER_TIMEOUT", "77"),
        ("GTE_IDLE_TIMEOUT", "77"),
        ("GTE_BODY_TIMEOUT", "77"),
        ("GTE_BODY_LIMIT", "77"),
        ("GTE_QUEUE_REQUESTS", "77"),
        ("GTE_QUEUE_TEXTS", "77"),
        ("GTE_QUEUE_TOKENS", "77"),
        ("GTE_REQUEST_TIMEOUT", "77"),
        ("GTE_LIVE_TIMEOUT", "77"),
        ("GTE_DRAIN_DELAY", "77"),
        ("GTE_DRAIN_TIMEOUT", "77"),
        ("GTE_API_KEY_FILE", "keys"),
        ("GTE_CACHE_MB", "77"),
        ("GTE_TOKEN_IDS", "1"),
        ("GTE_LOG_FORMAT", "json"),
        ("GTE_OTLP_ENDPOINT", "http://localhost:4318"),
    ];
    /// Variables that exclude each other.
    const EXCLUSIVE: [(&str, &str); 3] =
        [("GTE_MODELS", "models.toml"), ("GTE_NATS", "nats://localhost"), ("GTE_WORKER", "nats://localhost")];

    fn names() -> Vec<String> {
        let command = Config::command();
        let names = command.get_arguments().filter_map(|a| a.get_env()?.to_str().map(str::to_owned));
        names.collect()
    }

    fn with(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Config, String> {
        let arguments = ["gte-server"].iter().chain(arguments).map(OsString::from).collect();
        let value = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        read(arguments, value).map_err(|refusal| match refusal {
            Refusal::Variable(line) => line,
            Refusal::Arguments(e) => e.to_string(),
        })
    }

    fn shown(arguments: &[&str], variables: &[(&str, &str)]) -> String {
        format!("{:?}", with(arguments, variables).unwrap_or_else(|e| panic!("{variables:?}: {e}")))
    }

    /// A variable together with the variables that it needs.
    fn alone<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
        let other = match name {
            "GTE_TLS_CERT" => Some(("GTE_TLS_KEY", "key.pem")),
            "GTE_TLS_KEY" => Some(("GTE_TLS_CERT", "cert.pem")),
            _ => None,
        };
        other.into_iter().chain([(name, value)]).collect()
    }

    #[test]
    fn every_variable_is_read_as_containers_set_it() {
        let values: Vec<_> = VALUES.into_iter().chain(EXCLUSIVE).collect();
        let mut known: Vec<_> = values.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut all = names();
        known.sort();
        all.sort();
        assert_eq!(all, known, "this test needs a value for each variable");
        let default = shown(&[], &[]);
        for (name, value) in values {
            for empty in ["", " ", "\n"] {
                assert_eq!(shown(&[], &[(name, empty)]), default, "{name}={empty:?} is unset");
            }
            let set = shown(&[], &alone(name, value));
            assert_ne!(set, default, "{name}={value} has no effect");
            assert_eq!(shown(&[], &alone(name, &format!("{value} \n"))), set, "{name}: white space after the value");
        }
    }

    #[test]
    fn every_switch_takes_every_word() {
        let command = Config::command();
        let switches: Vec<_> =
            command.get_arguments().filter(|a| matches!(a.get_action(), ArgAction::SetTrue)).collect();
        assert_eq!(switches.len(), 3, "offline, download, token-ids");
        for switch in switches {
            let name = switch.get_env().and_then(OsStr::to_str).unwrap_or_default();
            let (on, off) = (shown(&[&format!("--{}", switch.get_long().unwrap_or_default())], &[]), shown(&[], &[]));
            assert_ne!(on, off);
            for (words, expected) in
                [(["1", "true", "yes", "on", "True", "YES"], &on), (["0", "false", "no", "off", "False", "NO"], &off)]
            {
                for word in words {
                    assert_eq!(&shown(&[], &[(name, word)]), expected, "{name}={word}");
                }
            }
            let error = with(&[], &[(name, "maybe")]).expect_err("no switch");
            assert!(error.contains(name) && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn a_tilde_is_the_home_directory() {
        let home = std::env::home_dir().expect("a home directory").display().to_string();
        for name in ["GTE_MODEL", "GTE_TLS_CERT", "GTE_TLS_KEY", "GTE_API_KEY_FILE"] {
            let config = shown(&[], &alone(name, "~/x"));
            assert!(config.contains(&format!("\"{home}/x\"")), "{name}: {config}");
        }
        let model = |value| with(&[], &[("GTE_MODEL", value)]).map(|config| config.model.join(" "));
        assert_eq!(model("~"), Ok(home));
        assert_eq!(model("~other/x"), Ok("~other/x".to_owned()), "the home of another user is not known");
        assert_eq!(model("a/~"), Ok("a/~".to_owned()));
    }

    #[test]
    fn the_command_line_is_right_and_wrong_values_name_their_variable() {
        let port = |arguments: &[&str], value| with(arguments, &[("GTE_PORT", value)]).map(|config| config.port());
        assert_eq!(port(&["--port", "5"], "77"), Ok(5));
        assert_eq!(port(&["--port", "5"], "rubbish"), Ok(5));
        assert_eq!(port(&[], "77"), Ok(77));
        let origins =
            |arguments: &[&str]| with(arguments, &[("GTE_CORS_ORIGIN", "a")]).map(|config| config.cors_origin.len());
        assert_eq!(
            (origins(&[]), origins(&["--cors-origin", "b"])),
            (Ok(1), Ok(1)),
            "the argument replaces the variable"
        );
        for (name, value) in [("GTE_PORT", "http"), ("GTE_PRECISION", "int3"), ("GTE_HOST", "x"), ("GTE_HUB", "x")] {
            let error = with(&[], &[(name, value)]).expect_err("wrong");
            assert!(error.contains(name) && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn keys_lose_their_white_space_and_must_be_there() {
        let keys = |value| with(&[], &[("GTE_API_KEYS", value)]).map(|config| config.api_keys);
        assert_eq!(keys("a, b \n"), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(keys(""), Ok(Vec::new()));
        assert!(keys(" , ").is_err_and(|e| e.contains("GTE_API_KEYS")));
    }

    #[test]
    fn help_names_the_variables() {
        let help = with(&["--help"], &[]).expect_err("help");
        for name in names() {
            assert!(help.contains(&name), "{name}");
        }
    }
}
