//! `Prompts`: the texts that a model expects before other texts, by name, and which of them a
//! caller wants. `config.rs` reads them from a model's files, and `tokenizer/` puts them before
//! each text.

use crate::error::{Error, Result};

/// The prompt before each text of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prompt<'a> {
    /// The model's default prompt, or none if its files have no default.
    #[default]
    Default,
    /// No prompt, whatever the model's files say.
    None,
    /// The prompt with this name in the model's files.
    Named(&'a str),
    /// This text.
    Text(&'a str),
}

/// The prompts of a model by name, in the order of its files.
///
/// ```
/// use gte_core::{Prompt, Prompts};
///
/// let prompts = Prompts::new(vec![("query".into(), "query: ".into())], Some("query".into()))?;
/// assert_eq!(prompts.resolve(Prompt::Default)?, "query: ");
/// assert_eq!(prompts.resolve(Prompt::None)?, "");
/// assert!(prompts.resolve(Prompt::Named("passage")).is_err());
/// # Ok::<(), gte_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompts {
    entries: Vec<(String, String)>,
    default_name: Option<String>,
}

/// Names that sentence-transformers defines for every model, with an empty prompt if its files have
/// none.
const ALWAYS: [&str; 2] = ["query", "document"];

impl Prompts {
    /// Prompts by name, and the name of the default prompt.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if `default_name` is not one of the names.
    pub fn new(entries: Vec<(String, String)>, default_name: Option<String>) -> Result<Self> {
        let prompts = Self { entries, default_name };
        if let Some(name) = &prompts.default_name {
            prompts.named(name, "default_prompt_name")?;
        }
        Ok(prompts)
    }

    /// The names, in the order of the model's files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }

    /// The prompt with this name in the model's files.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries.iter().find(|(n, _)| n == name).map(|(_, text)| text.as_str())
    }

    /// The name of the default prompt.
    pub fn default_name(&self) -> Option<&str> {
        self.default_name.as_deref()
    }

    /// The text of `prompt` for this model; empty for none. As in sentence-transformers, every
    /// model has the names `query` and `document`, which mean no prompt if its files lack them.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a name that the model does not have.
    pub fn resolve<'a>(&'a self, prompt: Prompt<'a>) -> Result<&'a str> {
        match prompt {
            Prompt::None => Ok(""),
            Prompt::Text(text) => Ok(text),
            Prompt::Named(name) => self.named(name, "prompt_name"),
            Prompt::Default => match &self.default_name {
                Some(name) => self.named(name, "default_prompt_name"),
                None => Ok(""),
            },
        }
    }

    fn named(&self, name: &str, option: &'static str) -> Result<&str> {
        if let Some(text) = self.get(name) {
            return Ok(text);
        }
        if ALWAYS.contains(&name) {
            return Ok("");
        }
        let names: Vec<&str> = self.names().collect();
        let expected = match names[..] {
            [] => "none, because the model's files have no prompts: use the prompt's text instead".to_owned(),
            _ => format!("one of the model's prompts: {}", names.join(", ")),
        };
        Err(Error::InvalidOption { option, value: format!("{name:?}"), expected })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;

    fn prompts(default_name: Option<&str>) -> Result<Prompts> {
        let entries = [("query", "query: "), ("sts", "Instruct: compare\n")];
        Prompts::new(entries.map(|(n, t)| (n.to_owned(), t.to_owned())).to_vec(), default_name.map(str::to_owned))
    }

    #[test]
    fn a_prompt_is_found_by_name_by_default_or_given() {
        let plain = prompts(None).unwrap();
        assert_eq!(plain.resolve(Prompt::Default).unwrap(), "");
        assert_eq!(plain.resolve(Prompt::Named("sts")).unwrap(), "Instruct: compare\n");
        assert_eq!(plain.resolve(Prompt::Named("document")).unwrap(), "", "a name of every model");
        assert_eq!(plain.resolve(Prompt::Text("x: ")).unwrap(), "x: ");
        let with_default = prompts(Some("query")).unwrap();
        assert_eq!(with_default.resolve(Prompt::Default).unwrap(), "query: ");
        assert_eq!(with_default.resolve(Prompt::None).unwrap(), "");
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = prompts(None).unwrap().resolve(Prompt::Named("passage")).unwrap_err().to_string();
        assert!(error.contains("\"passage\"") && error.contains("query, sts"), "{error}");
        let error = Prompts::default().resolve(Prompt::Named("x")).unwrap_err().to_string();
        assert!(error.contains("no prompts"), "{error}");
        assert!(prompts(Some("passage")).unwrap_err().to_string().contains("default_prompt_name"));
    }
}
