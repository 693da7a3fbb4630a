//! How a request wants its texts to be read: which prompt comes before them, and where long texts
//! are truncated.

use gte_core::TruncationSide;

/// The prompt that a request wants before its texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum PromptChoice {
    /// The model's own default prompt, if it has one.
    #[default]
    Default,
    /// The model's prompt of this name.
    Name(String),
    /// The model's prompt of this name, where the name may also be the kind of input.
    NameOrKind(String),
    /// This text.
    Text(String),
    /// The model's prompt for this kind of input, or none if the model has no such prompt.
    For(InputKind),
}

/// The kind of input, for models that read queries and documents differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InputKind {
    Query,
    Document,
}

impl InputKind {
    /// The names that model files give to the prompt for this kind of input, the most common one
    /// first.
    pub(crate) fn names(self) -> [&'static str; 3] {
        match self {
            Self::Query => ["query", "search_query", "retrieval.query"],
            Self::Document => ["document", "passage", "search_document"],
        }
    }
}

/// How a request wants its texts to be read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// The prompt before each text.
    pub(crate) prompt: PromptChoice,
    /// Whether long texts are truncated. Default: true.
    pub(crate) truncate: Option<bool>,
    /// The side on which they are truncated.
    pub(crate) side: Option<TruncationSide>,
}
