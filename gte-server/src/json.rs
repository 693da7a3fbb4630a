//! Parses JSON from clients. Each error names the wrong field and says what is wrong with it.

use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use utoipa::PartialSchema;
use utoipa::openapi::{RefOr, Schema};

use crate::error::Error;

/// Parses a request's body: one object, with nothing after it.
///
/// # Errors
/// [`Error::Syntax`] for invalid JSON, [`Error::Field`] for a wrong value.
pub(crate) fn parse<T: DeserializeOwned + PartialSchema>(bytes: &[u8]) -> Result<T, Error> {
    parse_any(bytes).map(|Object(value)| value).map_err(|e| match e {
        Error::Field { field, reason } if field == WHOLE => match missing::<T>(bytes) {
            Some(name) => Error::field(name, "the field is missing"),
            None => Error::Field { field, reason },
        },
        e => e,
    })
}

/// How an error refers to the whole body.
const WHOLE: &str = "the body";

/// Parses a value of any kind.
///
/// # Errors
/// As [`parse`].
pub(crate) fn parse_any<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let field = match e.path().iter().next() {
            Some(_) => e.path().to_string(),
            None => WHOLE.to_owned(),
        };
        why(bytes, field, &e.into_inner())
    })?;
    json.end().map_err(|e| Error::Syntax(e.to_string()))?;
    Ok(value)
}

/// Finds out what is wrong. serde_json reports some values of a wrong type as a syntax error, so
/// only its position is used.
fn why(bytes: &[u8], field: String, e: &serde_json::Error) -> Error {
    if e.is_data() {
        return Error::field(field, e);
    }
    if let Err(e) = std::str::from_utf8(bytes) {
        return Error::Syntax(format!("byte {} is not UTF-8", e.valid_up_to()));
    }
    if let Some((at, escape)) = lone_surrogate(bytes) {
        let reason = format_args!(
            "the escape {escape} at byte {at} is half of a surrogate pair and stands for no character: \
             send both halves, or UTF-8"
        );
        return Error::field(field, reason);
    }
    match serde_json::from_slice::<IgnoredAny>(bytes) {
        Ok(_) => Error::field(field, format_args!("expected a value of another type ({e})")),
        Err(_) => Error::Syntax(e.to_string()),
    }
}

/// The first escape of a surrogate without its other half, and its position.
fn lone_surrogate(bytes: &[u8]) -> Option<(usize, String)> {
    // Backslashes occur only in strings.
    let unit = |at: usize| {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut at = 0;
    while at < bytes.len() {
        at += match (bytes[at], unit(at)) {
            (b'\\', Some(0xD800..=0xDBFF)) if unit(at + 6).is_some_and(|low| (0xDC00..=0xDFFF).contains(&low)) => 12,
            (b'\\', Some(0xD800..=0xDFFF)) => {
                return Some((at, String::from_utf8_lossy(&bytes[at..at + 6]).into_owned()));
            }
            (b'\\', _) => 2,
            _ => 1,
        };
    }
    None
}

/// The first field that `T` requires and the object does not have.
fn missing<T: PartialSchema>(bytes: &[u8]) -> Option<String> {
    let RefOr::T(Schema::Object(schema)) = T::schema() else { return None };
    let given: std::collections::HashMap<String, IgnoredAny> = serde_json::from_slice(bytes).ok()?;
    schema.required.into_iter().find(|name| !given.contains_key(name))
}

/// A JSON object. Without this, serde would also read a struct from a list, by the order of its
/// fields.
#[derive(Debug, Serialize)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<T, M::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// For `deserialize_with`: an object.
pub(crate) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(value)| value)
}

/// For `deserialize_with`: an object or null.
pub(crate) fn maybe_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer).map(|value| value.map(|Object(value)| value))
}

/// For `deserialize_with`: true, false or null. Strings and numbers are accepted too, because some
/// clients keep their settings as strings.
pub(crate) fn lenient_bool<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected true or false")]
    enum Written {
        Bool(bool),
        Word(String),
        Number(i64),
    }
    let word = |word: &str| match word.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err(serde::de::Error::custom(format_args!("{word:?}, expected true or false"))),
    };
    match Option::<Written>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Written::Bool(value)) => Ok(Some(value)),
        Some(Written::Word(written)) => word(&written).map(Some),
        Some(Written::Number(written)) => word(&written.to_string()).map(Some),
    }
}

/// One of the known words, or null.
pub(crate) fn word<'de, D: Deserializer<'de>, T: Copy>(
    deserializer: D,
    words: &[(&str, T)],
) -> Result<Option<T>, D::Error> {
    let Some(given) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    match words.iter().find(|(word, _)| word.eq_ignore_ascii_case(&given)) {
        Some(&(_, value)) => Ok(Some(value)),
        None => {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            let message = format!("{given:?} is not known, expected {}", known.join(" or "));
            Err(serde::de::Error::custom(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lone_surrogates_are_found_and_pairs_are_none() {
        for (text, expected) in [
            (r#"{"a": "\ud83d\ude00"}"#, None),
            (r#"{"a": "\\ud83d"}"#, None),
            (r#"{"a": "\u00e9\n"}"#, None),
            (r#"{"a": "\ud83d"}"#, Some((7, r"\ud83d"))),
            (r#"{"a": "\uD83Dx\ude00"}"#, Some((7, r"\uD83D"))),
            (r#"{"a": "\ude00"}"#, Some((7, r"\ude00"))),
            (r#"{"a": "\ud83d\ud83d\ude00"}"#, Some((7, r"\ud83d"))),
        ] {
            assert_eq!(lone_surrogate(text.as_bytes()), expected.map(|(at, e)| (at, e.to_owned())), "{text}");
        }
    }
}
