//! Reads environment variables, always in the same way: an empty variable counts as unset, white
//! space around a value is ignored, a switch accepts the usual words, and `~` in a path is the home
//! directory.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The words for a switch, in upper or lower case.
const ON: [&str; 4] = ["1", "yes", "on", "true"];
const OFF: [&str; 4] = ["0", "no", "off", "false"];

/// The source of environment variables.
pub(crate) struct Env<'a> {
    pub(crate) lookup: &'a dyn Fn(&str) -> Option<OsString>,
}

impl Env<'static> {
    /// The variables of this process.
    pub(crate) fn process() -> Self {
        Self { lookup: &|name| std::env::var_os(name) }
    }
}

impl Env<'_> {
    /// The value of a variable, or `None` for one that is unset or empty.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a value that is not UTF-8.
    pub(crate) fn text(&self, name: &'static str) -> Result<Option<String>> {
        let Some(value) = (self.lookup)(name) else { return Ok(None) };
        let value = value.into_string().map_err(|value| Error::InvalidOption {
            option: name,
            value: value.to_string_lossy().into_owned(),
            expected: "UTF-8".into(),
        })?;
        Ok(Some(value.trim().to_owned()).filter(|value| !value.is_empty()))
    }

    /// Whether a switch is on: `1`, `yes`, `on` or `true`; off: `0`, `no`, `off` or `false`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for any other word.
    pub(crate) fn switch(&self, name: &'static str) -> Result<Option<bool>> {
        let Some(value) = self.text(name)? else { return Ok(None) };
        let word = value.to_lowercase();
        match (ON.contains(&word.as_str()), OFF.contains(&word.as_str())) {
            (true, _) => Ok(Some(true)),
            (_, true) => Ok(Some(false)),
            _ => Err(Error::InvalidOption {
                option: name,
                value,
                expected: format!("{} or {}", ON.join(", "), OFF.join(", ")),
            }),
        }
    }

    /// The path in a variable, which need not be UTF-8.
    pub(crate) fn path(&self, name: &'static str) -> Option<PathBuf> {
        self.plain_path(name).map(|path| self.expanded(&path))
    }

    /// The home directory: `HOME`, or else what the system reports.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        let home = self.plain_path("HOME").or_else(std::env::home_dir);
        home.filter(|home| !home.as_os_str().is_empty())
    }

    fn plain_path(&self, name: &'static str) -> Option<PathBuf> {
        let value = (self.lookup)(name)?;
        let path = match value.to_str() {
            Some(text) => PathBuf::from(text.trim()),
            None => PathBuf::from(value),
        };
        Some(path).filter(|path| !path.as_os_str().is_empty())
    }

    fn expanded(&self, path: &Path) -> PathBuf {
        match (path.strip_prefix("~"), self.home()) {
            (Ok(rest), Some(home)) if rest.as_os_str().is_empty() => home,
            (Ok(rest), Some(home)) => home.join(rest),
            _ => path.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::files::HubOptions;

    /// The kind of value in a variable.
    #[derive(Clone, Copy)]
    enum Kind {
        Switch,
        Path,
        Other,
    }

    /// A variable, its kind, a valid value, and the other variables that must be set for that value
    /// to have an effect.
    type Variable = (&'static str, Kind, &'static str, &'static [(&'static str, &'static str)]);

    /// Every variable that this crate reads.
    const VARIABLES: [Variable; 16] = [
        ("GTE_ISA", Kind::Other, "scalar", &[]),
        ("GTE_THREADS", Kind::Other, "3", &[]),
        ("HF_ENDPOINT", Kind::Other, "http://mirror", &[]),
        ("HF_HOME", Kind::Path, "/a", &[]),
        ("HF_HUB_CACHE", Kind::Path, "/a", &[]),
        ("HF_HUB_DISABLE_IMPLICIT_TOKEN", Kind::Switch, "1", &[("HF_TOKEN", "hf_x")]),
        ("HF_HUB_OFFLINE", Kind::Switch, "1", &[]),
        ("HF_TOKEN", Kind::Other, "hf_x", &[]),
        ("HF_TOKEN_PATH", Kind::Other, concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), &[]),
        ("HOME", Kind::Other, "/home/you", &[]),
        ("HUGGINGFACE_HUB_CACHE", Kind::Path, "/a", &[]),
        ("HUGGING_FACE_HUB_TOKEN", Kind::Other, "hf_x", &[]),
        ("MODELSCOPE_CACHE", Kind::Path, "/a", &[]),
        ("MODELSCOPE_ENDPOINT", Kind::Other, "http://mirror", &[]),
        ("TRANSFORMERS_OFFLINE", Kind::Switch, "1", &[]),
        ("XDG_CACHE_HOME", Kind::Path, "/a", &[]),
    ];

    /// Everything that depends on the environment, as text, and the variables that were read.
    fn settings(variables: &[(&str, &str)]) -> (Result<String, String>, BTreeSet<String>) {
        let values: BTreeMap<_, _> = variables.iter().copied().collect();
        let seen = RefCell::new(BTreeSet::new());
        let lookup = |name: &str| {
            seen.borrow_mut().insert(name.to_owned());
            let value = values.get(name).copied().filter(|value| name != "HOME" || !value.trim().is_empty());
            value.or((name == "HOME").then_some("/home/me")).map(OsString::from)
        };
        let env = Env { lookup: &lookup };
        let read = || -> Result<String> {
            let hub = HubOptions::read(&env)?;
            let token = hub.token.clone();
            let threads = crate::threads::count(None, &env)?;
            Ok(format!("{hub:?} {token:?} {threads} {}", crate::device::kernels(None, &env)?.isa))
        };
        let read = read().map_err(|e| e.to_string());
        (read, seen.into_inner())
    }

    #[test]
    fn every_variable_is_read_in_the_same_way() {
        let seen = settings(&[]).1;
        let listed = VARIABLES.iter().map(|(name, ..)| (*name).to_owned()).collect();
        assert_eq!(seen, listed, "the table has exactly the variables that are read");
        for (name, kind, value, beside) in VARIABLES {
            let read = |value: &str| settings(&[beside, &[(name, value)]].concat()).0.unwrap();
            let (unset, set) = (settings(beside).0.unwrap(), read(value));
            assert_ne!(set, unset, "{name}={value} has no effect");
            for empty in ["", " ", "\n"] {
                assert_eq!(read(empty), unset, "{name}={empty:?} counts as unset");
            }
            assert_eq!(read(&format!("{value} \r\n")), set, "{name} with a new line after it");
            match kind {
                Kind::Switch => {
                    for (words, expected) in [(ON, &set), (OFF, &unset)] {
                        for word in words {
                            assert_eq!(&read(word), expected, "{name}={word}");
                            assert_eq!(&read(&word.to_uppercase()), expected, "{name}={word} in upper case");
                        }
                    }
                    let error = settings(&[(name, "maybe")]).0.unwrap_err();
                    assert!(error.contains(name) && error.contains("maybe") && error.contains("yes"), "{error}");
                }
                Kind::Path => {
                    assert_eq!(read("~/x"), read("/home/me/x"), "{name}=~/x");
                    assert_eq!(read("~"), read("/home/me"), "{name}=~");
                    assert!(read("/x/~y").contains("/x/~y"), "{name}: a `~` elsewhere is an ordinary character");
                }
                Kind::Other => {}
            }
        }
        for (name, wrong) in [("GTE_THREADS", "many"), ("GTE_THREADS", "0"), ("GTE_ISA", "sse9")] {
            let error = settings(&[(name, wrong)]).0.unwrap_err();
            assert!(error.contains(name) && error.contains(wrong), "{error}");
        }
    }
}
