//! How a request wants its texts read: what stands before them, and where they are cut.

use gte_core::TruncationSide;

/// What a request wants to stand before its texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum PromptChoice {
    /// The model's own default prompt, if it has one.
    #[default]
    Default,
    /// The model's prompt of this name.
    Name(String),
    /// The same, where the request calls it what its texts are.
    NameOrKind(String),
    /// This text.
    Text(String),
    /// The model's prompt for such texts; nothing where it has none.
    For(InputKind),
}

/// What a text is, to a model that reads queries and documents differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InputKind {
    Query,
    Document,
}

impl InputKind {
    /// The names that models' files give to the prompt of such texts, the usual one first.
    pub(crate) fn names(self) -> [&'static str; 3] {
        match self {
            Self::Query => ["query", "search_query", "retrieval.query"],
            Self::Document => ["document", "passage", "search_document"],
        }
    }
}

/// How a request wants its texts read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// What stands before each text.
    pub(crate) prompt: PromptChoice,
    /// Whether long texts are cut: they are, unless this is false.
    pub(crate) truncate: Option<bool>,
    /// Where.
    pub(crate) side: Option<TruncationSide>,
}
