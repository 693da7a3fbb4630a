//! `Json`: a JSON object in a model's files, read as Python's `json` module reads it. It knows the
//! name of its file, for messages, and which keys have been read, so that unread keys can be
//! reported.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::ModelFiles;

/// A JSON object. If a key occurs twice, the last one counts, as in Python.
///
/// Python writes `NaN`, `Infinity` and `-Infinity`, which are not part of JSON.
/// [`number`](Self::number) returns them as numbers; [`get`](Self::get) returns them as strings
/// that cannot occur otherwise.
pub(crate) struct Json {
    label: String,
    path: String, // of this object in its file: empty, or for example `rope_parameters.`
    object: Map<String, Value>,
    asked: Rc<RefCell<BTreeSet<String>>>, // full paths, shared by all objects of a file; those of opened objects end in a dot
}

/// How this engine treats a key that the loaders of `transformers` or `sentence-transformers` read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It has the same effect.
    Obeyed,
    /// A value that would change a vector, and that cannot be computed here, is an error that names
    /// the key.
    Refused,
    /// No value of it changes a vector.
    Harmless,
}

/// A key in a model's files: a line of `docs/model-files.md`.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "the test that holds docs/model-files.md reads all of it"))]
pub(crate) struct Key {
    /// `config.json`, or `*_Dense/config.json` for the config of a module.
    pub(crate) file: &'static str,
    /// Its name. A dot leads into an object.
    pub(crate) key: &'static str,
    pub(crate) fate: Fate,
    /// What the reference does with it, and why it is treated this way here.
    pub(crate) why: &'static str,
}

impl Json {
    /// The object in `file`, which may be missing.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] if the file is not a JSON object.
    pub(crate) fn read(files: &ModelFiles, file: &str) -> Result<Option<Self>> {
        let Some(content) = files.read(file)? else { return Ok(None) };
        Self::parse(files.label(file), content).map(Some)
    }

    /// The object in `content`, the content of the file `label`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn parse(label: String, content: Vec<u8>) -> Result<Self> {
        match parse(content) {
            Ok(Value::Object(object)) => Ok(Self { label, path: String::new(), object, asked: Rc::default() }),
            Ok(_) => Err(Error::invalid(label, "expected a JSON object")),
            Err(e) => Err(Error::invalid(label, e)),
        }
    }

    /// The object number `index` of a list, which is the content of the file `label`. Messages name
    /// its keys `[index].…`.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for another type.
    pub(crate) fn entry(label: &str, index: usize, value: &Value) -> Result<Self> {
        let path = format!("[{index}].");
        match value {
            Value::Object(object) => {
                Ok(Self { label: label.into(), path, object: object.clone(), asked: Rc::default() })
            }
            _ => Err(Error::invalid(label, format_args!("[{index}] is {}, expected an object", shown(value)))),
        }
    }

    /// The names of all keys, in any order. They do not count as read.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.object.keys().map(String::as_str)
    }

    /// The value of a key, including `null`.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.asked.borrow_mut().insert(format!("{}{key}", self.path));
        self.object.get(key)
    }

    /// As [`get`](Self::get), but None for `null`.
    fn some(&self, key: &str) -> Option<&Value> {
        self.get(key).filter(|value| !value.is_null())
    }

    /// A number, which may be NaN or infinite; `null` counts as missing.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for another type, as in the functions below.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |value| match value.as_str() {
            Some(NAN) => Some(f64::NAN),
            Some(INFINITY) => Some(f64::INFINITY),
            Some(NEGATIVE) => Some(f64::NEG_INFINITY),
            _ => value.as_f64(),
        })
    }

    /// `true` or `false`; `null` counts as missing.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A string; `null` counts as missing.
    pub(crate) fn string(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |value| value.as_str().filter(|s| ![NAN, INFINITY, NEGATIVE].contains(s)))
    }

    /// A list; `null` counts as missing.
    pub(crate) fn list(&self, key: &str) -> Result<Option<&[Value]>> {
        self.typed(key, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    /// An object within this one. Messages name its keys `key.…`. `null` counts as missing.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>> {
        let Some(object) = self.typed(key, "an object", Value::as_object)? else { return Ok(None) };
        let path = format!("{}{key}.", self.path);
        self.asked.borrow_mut().insert(path.clone());
        Ok(Some(Self { label: self.label.clone(), path, object: object.clone(), asked: self.asked.clone() }))
    }

    fn typed<'a, T>(&'a self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.some(key) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.invalid(format_args!("`{}{key}` is {}, expected {expected}", self.path, shown(value)))),
        }
    }

    /// A size from 1 to `max`. A larger one is not a model but an attack on the allocator.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for anything else, and if the key is missing.
    pub(crate) fn size(&self, key: &str, max: u64) -> Result<usize> {
        self.size_or(key, max, None)
    }

    /// As [`size`](Self::size), but `default` if the key is missing. `null` is an error.
    ///
    /// # Errors
    /// As [`size`](Self::size).
    pub(crate) fn size_or(&self, key: &str, max: u64, default: Option<usize>) -> Result<usize> {
        match (self.get(key), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.missing(key)),
            (Some(value), _) => match value.as_u64() {
                Some(n) if (1..=max).contains(&n) => Ok(n as usize),
                _ => Err(self.invalid(format_args!("`{}{key}` is {}, expected 1 to {max}", self.path, shown(value)))),
            },
        }
    }

    /// Checks that a string is one of `supported`. It may be missing or `null` if there is a
    /// `default`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another value, [`Error::InvalidFile`] if it is missing without a
    /// default.
    pub(crate) fn only(&self, key: &str, supported: &[&str], default: Option<&str>) -> Result<()> {
        match self.get(key) {
            None | Some(Value::Null) if default.is_some() => Ok(()),
            Some(Value::String(s)) if supported.contains(&s.as_str()) => Ok(()),
            None => Err(self.missing(key)),
            Some(found) => Err(self.unsupported(key, &shown(found), &supported.join(", "))),
        }
    }

    /// An error about the file's content.
    pub(crate) fn invalid(&self, reason: impl std::fmt::Display) -> Error {
        Error::invalid(&self.label, reason)
    }

    /// The error for a required key that is missing.
    pub(crate) fn missing(&self, key: &str) -> Error {
        self.invalid(format_args!("`{}{key}` is missing", self.path))
    }

    /// The error for a `key` that requires something that cannot be computed here.
    pub(crate) fn unsupported(&self, key: &str, found: &str, supported: &str) -> Error {
        Error::Unsupported {
            file: self.label.clone(),
            key: format!("{}{key}", self.path),
            found: found.into(),
            supported: supported.into(),
        }
    }

    /// The keys that have not been read, including those of opened objects.
    pub(crate) fn unread(&self) -> Vec<String> {
        fn walk(object: &Map<String, Value>, path: &str, asked: &BTreeSet<String>, unread: &mut Vec<String>) {
            for (key, value) in object {
                let key = format!("{path}{key}");
                let opened = format!("{key}.");
                match value {
                    Value::Object(inner) if asked.contains(&opened) => walk(inner, &opened, asked, unread),
                    _ if asked.contains(&key) => {}
                    _ => unread.push(key),
                }
            }
        }
        let mut unread = Vec::new();
        walk(&self.object, &self.path, &self.asked.borrow(), &mut unread);
        unread
    }

    /// Refuses a key that is not in `known`, the table of this file, as the reference does with
    /// files whose keys are the arguments of a class.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with the key.
    pub(crate) fn refuse_unknown(&self, known: &[Key]) -> Result<()> {
        self.log_unknown(known);
        match self.object.iter().find(|(key, _)| !known.iter().any(|known| known.key == *key)) {
            Some((key, value)) => Err(self.unsupported(
                key,
                &shown(value),
                &known.iter().map(|known| known.key).collect::<Vec<_>>().join(", "),
            )),
            None => Ok(()),
        }
    }

    /// Logs the keys that have not been read and are not in `known`, the table of this file: no
    /// loader of the reference reads them either.
    pub(crate) fn log_unknown(&self, known: &[Key]) {
        #[cfg(test)]
        tests::READ.with_borrow_mut(|read| {
            read.push((known.first().map_or("", |key| key.file).to_owned(), self.asked.borrow().clone()));
        });
        for path in self.unread() {
            if !known.iter().any(|known| path.strip_prefix(&self.path) == Some(known.key)) {
                tracing::debug!(file = self.label, key = path, "unknown key, ignored");
            }
        }
    }
}

/// A value as messages show it.
pub(crate) fn shown(value: &Value) -> String {
    let quoted = |s: &str| format!("\"{s}\"");
    let text = value.to_string().replace(&quoted(NAN), "NaN");
    text.replace(&quoted(INFINITY), "Infinity").replace(&quoted(NEGATIVE), "-Infinity")
}

/// Parses any value as Python's `json` module does.
///
/// # Errors
/// Those of `serde_json`.
pub(crate) fn parse(mut content: Vec<u8>) -> serde_json::Result<Value> {
    hide_non_finite(&mut content);
    serde_json::from_slice(&content)
}

// Replacements for Python's three words: strings that begin with a DEL, which JSON allows and
// nobody writes.
const NAN: &str = "\u{7f}";
const INFINITY: &str = "\u{7f}+";
const NEGATIVE: &str = "\u{7f}-";

/// Replaces the three words by strings of the same width, so that errors name the right column.
fn hide_non_finite(json: &mut [u8]) {
    const WORDS: [(&[u8], &[u8]); 3] =
        [(b"NaN", b"\"\x7f\""), (b"Infinity", b"\"\x7f+\"    "), (b"-Infinity", b"\"\x7f-\"     ")];
    let mut at = 0;
    while at < json.len() {
        let rest = &mut json[at..];
        if rest[0] == b'"' {
            at += string_len(rest);
        } else if let Some((word, stand_in)) = WORDS.iter().find(|(word, _)| rest.starts_with(word)) {
            // As a key, such a word is as invalid in Python as in JSON.
            if rest[word.len()..].trim_ascii_start().first() != Some(&b':') {
                rest[..word.len()].copy_from_slice(stand_in);
            }
            at += word.len();
        } else {
            at += 1;
        }
    }
}

/// Number of bytes in the string at the beginning, including its quotes.
fn string_len(json: &[u8]) -> usize {
    let mut at = 1;
    while at < json.len() {
        match json[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::*;

    thread_local! {
        /// The files that this thread has read completely, and the keys that were read.
        pub(crate) static READ: RefCell<Vec<(String, BTreeSet<String>)>> = const { RefCell::new(Vec::new()) };
    }

    fn json(text: &str) -> Json {
        Json::parse("config.json".into(), text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn it_reads_what_python_writes() {
        // The output of json.dumps({"a": float("nan"), …}), and text that must not change.
        let text = r#"{"a": NaN, "b": [Infinity, -Infinity], "c":-Infinity,"d": "NaN, \"Infinity\\\" NaN",
            "e": {"\"NaN": NaN}, "f": "\\", "g": Infinity}"#;
        assert!(serde_json::from_str::<Value>(text).is_err(), "plain JSON has none of them");
        let json = json(text);
        assert!(json.number("a").unwrap().unwrap().is_nan());
        assert_eq!(json.number("c").unwrap(), Some(f64::NEG_INFINITY));
        assert_eq!(json.number("g").unwrap(), Some(f64::INFINITY));
        assert_eq!(json.string("d").unwrap(), Some(r#"NaN, "Infinity\" NaN"#));
        assert_eq!(json.string("f").unwrap(), Some("\\"));
        assert_eq!(shown(json.get("b").unwrap()), "[Infinity,-Infinity]");
        assert!(json.object("e").unwrap().unwrap().number("\"NaN").unwrap().unwrap().is_nan());
        let error = json.size("a", 9).unwrap_err().to_string();
        assert_eq!(error, "config.json: `a` is NaN, expected 1 to 9");
        assert!(json.string("a").unwrap_err().to_string().contains("is NaN, expected a string"));
    }

    #[test]
    fn it_refuses_what_python_refuses() {
        for text in
            ["{NaN: 1}", "{\"a\": -NaN}", "{\"a\": nan}", "{\"a\": NaNs}", "{\"a\": +Infinity}", "{\"a\": 1Infinity}"]
        {
            assert!(Json::parse(String::new(), text.into()).is_err(), "{text}");
        }
        for text in ["", "\"", "\"\\", "{\"a\": \"\\", "[]", "null", "NaN", "\u{feff}{}", "{\"a\": 1,}"] {
            assert!(Json::parse(String::new(), text.into()).is_err(), "{text}");
        }
        let error = Json::parse("x".into(), b"{\"a\": Infinity, \"b\": }".to_vec()).err().unwrap().to_string();
        assert!(error.contains("column 22"), "{error}");
    }

    #[test]
    fn of_two_equal_keys_the_last_one_counts() {
        assert_eq!(json(r#"{"a": 1, "b": 2, "a": 3}"#).size("a", 9).unwrap(), 3);
    }

    #[test]
    fn a_wrong_type_is_named() {
        let json = json(r#"{"n": "1", "f": 1, "s": 1, "o": [], "l": {}, "i": {"n": "x", "k": 1}, "none": null}"#);
        let error = |result: Result<()>| result.unwrap_err().to_string();
        assert!(error(json.number("n").map(drop)).ends_with("`n` is \"1\", expected a number"));
        assert!(error(json.flag("f").map(drop)).ends_with("`f` is 1, expected true or false"));
        assert!(error(json.string("s").map(drop)).ends_with("`s` is 1, expected a string"));
        assert!(error(json.object("o").map(drop)).ends_with("`o` is [], expected an object"));
        assert!(error(json.list("l").map(drop)).ends_with("`l` is {}, expected a list"));
        let inner = json.object("i").unwrap().unwrap();
        assert!(error(inner.number("n").map(drop)).ends_with("`i.n` is \"x\", expected a number"));
        let unsupported = json.object("i").unwrap().unwrap().only("k", &["v"], None).unwrap_err();
        assert_eq!(unsupported.to_string(), "config.json: `i.k` is 1, supported: v");
        for key in ["none", "absent"] {
            assert_eq!(json.number(key).unwrap(), None);
            assert_eq!(json.flag(key).unwrap(), None);
            json.only(key, &["v"], Some("v")).unwrap();
        }
        assert_eq!(json.size_or("absent", 9, Some(4)).unwrap(), 4);
        assert!(json.size_or("none", 9, Some(4)).is_err(), "null is not a size");
    }

    #[test]
    fn keys_that_nobody_read_are_known() {
        let json = json(r#"{"a": 1, "b": {"c": 1, "d": {"e": 1}}, "f": {"g": 1}, "h": null}"#);
        assert_eq!(json.unread(), ["a", "b", "f", "h"]);
        json.number("a").unwrap();
        let b = json.object("b").unwrap().unwrap();
        assert_eq!(json.unread(), ["b.c", "b.d", "f", "h"]);
        b.object("d").unwrap().unwrap().number("e").unwrap();
        json.get("f");
        assert_eq!(json.unread(), ["b.c", "h"]);
    }
}
