//! How often the right passage is found: P@1 and P@5 over questions whose answer is known.

use std::fmt::Write;
use std::path::Path;

use crate::error::{Error, Result};
use crate::models::Models;
use crate::search::{Hit, Mode, SearchOptions, search};
use crate::store::Store;

/// A question, one JSON object per line of the file.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    question: String,
    /// The document that answers it.
    path: String,
    /// What stands in the passage that answers it.
    passage: String,
    /// Whether the question is worded differently from the page.
    #[serde(default)]
    reworded: bool,
}

/// How often the right passage, and the right document, is the first or among the first five.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Figures {
    /// hybrid, dense or words, with `+reranker` where one reordered.
    pub mode: String,
    /// all, or reworded: those that are worded differently from the page.
    pub questions: String,
    /// How many there are.
    pub count: usize,
    /// Shares of the right passage.
    pub passage_p1: f64,
    /// Among the first five.
    pub passage_p5: f64,
    /// Shares of a passage of the right document.
    pub document_p1: f64,
    /// Among the first five.
    pub document_p5: f64,
}

/// Asks each question in each mode, with the reranker too where there is one.
///
/// # Errors
/// [`Error::File`] and [`Error::Settings`] for the file of questions; those of the models and the
/// database.
pub fn evaluate(models: &Models, store: &mut dyn Store, file: &Path) -> Result<Vec<Figures>> {
    let content = std::fs::read_to_string(file).map_err(Error::file(file))?;
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str::<Question>(line)
            .map_err(|e| Error::Settings(format!("{}: line {}: {e}", file.display(), i + 1)))
    };
    let questions = content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse);
    let questions: Vec<Question> = questions.collect::<Result<_>>()?;
    if questions.is_empty() {
        return Err(Error::Settings(format!("{}: no questions", file.display())));
    }
    let mut figures = Vec::new();
    for rerank in [false, true] {
        if rerank && models.reranker.is_none() {
            continue;
        }
        for (mode, name) in [(Mode::Dense, "dense"), (Mode::Words, "words"), (Mode::Hybrid, "hybrid")] {
            let mut ranks = Vec::new();
            for question in &questions {
                let hits = search(models, store, &question.question, SearchOptions { mode, rerank, k: 5 })?;
                let passage = rank(&hits, |hit| hit.is_of(question) && hit.passage.text.contains(&question.passage));
                let document = rank(&hits, |hit| hit.is_of(question));
                ranks.push(Ranks { reworded: question.reworded, passage, document });
            }
            let name = if rerank { format!("{name}+reranker") } else { name.to_owned() };
            figures.push(count(&name, "all", &ranks));
            ranks.retain(|ranks| ranks.reworded);
            if !ranks.is_empty() {
                figures.push(count(&name, "reworded", &ranks));
            }
        }
    }
    Ok(figures)
}

/// Where the right passage, and the first one of the right document, are among the first five,
/// counted from 0.
struct Ranks {
    reworded: bool,
    passage: Option<usize>,
    document: Option<usize>,
}

impl Hit {
    fn is_of(&self, question: &Question) -> bool {
        self.passage.path == question.path
    }
}

fn rank(hits: &[Hit], is_right: impl Fn(&Hit) -> bool) -> Option<usize> {
    hits.iter().position(is_right)
}

fn count(mode: &str, questions: &str, ranks: &[Ranks]) -> Figures {
    let share =
        |found: fn(&Ranks) -> bool| ranks.iter().filter(|ranks| found(ranks)).count() as f64 / ranks.len() as f64;
    Figures {
        mode: mode.to_owned(),
        questions: questions.to_owned(),
        count: ranks.len(),
        passage_p1: share(|ranks| ranks.passage == Some(0)),
        passage_p5: share(|ranks| ranks.passage.is_some()),
        document_p1: share(|ranks| ranks.document == Some(0)),
        document_p5: share(|ranks| ranks.document.is_some()),
    }
}

/// The figures as lines of CSV, under a head.
pub fn csv(model: &str, figures: &[Figures]) -> String {
    let mut out = "model,mode,questions,count,passage_p1,passage_p5,document_p1,document_p5\n".to_owned();
    for f in figures {
        let Figures { mode, questions, count, passage_p1, passage_p5, document_p1, document_p5 } = f;
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "{model},{mode},{questions},{count},{passage_p1:.3},{passage_p5:.3},{document_p1:.3},{document_p5:.3}"
        );
    }
    out
}
