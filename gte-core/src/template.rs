//! `Question`: the text that asks a language model whether a document answers a query. It is
//! formatted by the chat template of the model's files, or else as its authors publish it (README
//! of Qwen3-Reranker, <https://huggingface.co/Qwen/Qwen3-Reranker-0.6B>).

use minijinja::{Environment, context};
use rayon::prelude::*;

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::files::ModelFiles;
use crate::json::Json;
use crate::tokenizer::{Tokenizer, Tokens};

const BEFORE: &str = "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the \
    Instruct provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n";
const AFTER: &str = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";
const INSTRUCTION: &str = "Given a web search query, retrieve relevant passages that answer the query";

/// The text around a query and a document.
pub(crate) struct Question {
    form: Form,
    instruction: Option<String>, // the default instruction
    generation_prompt: bool,     // whether a chat template ends with the beginning of an answer
    after: Vec<u32>,             // tokens after the document, which are never truncated
}

enum Form {
    /// The tokens before the instruction, which are never truncated either.
    Published(Vec<u32>),
    Chat(Environment<'static>),
}

impl Question {
    /// The question according to a model's files.
    pub(crate) fn read(files: &ModelFiles, config: &ModelConfig, tokenizer: &Tokenizer) -> Result<Self> {
        let default = config.prompts.resolve(crate::prompts::Prompt::Default)?;
        let instruction = (!default.is_empty()).then(|| default.to_owned());
        let question = match chat_template(&files.within(&config.transformer)?, config)? {
            Some((label, source)) => Self::of_chat(label, source, instruction, config.generation_prompt, tokenizer)?,
            None => {
                let before = Form::Published(tokenizer.encode_bare(BEFORE, 0)?);
                let after = tokenizer.encode_bare(AFTER, 0)?;
                Self { form: before, instruction, generation_prompt: true, after }
            }
        };
        let around = question.before().len() + question.after.len();
        if around >= tokenizer.max_length() {
            return Err(Error::InvalidOption {
                option: "max_length",
                value: tokenizer.max_length().to_string(),
                expected: format!("more than the {around} of the question"),
            });
        }
        Ok(question)
    }

    fn of_chat(
        label: String,
        source: String,
        instruction: Option<String>,
        generation_prompt: bool,
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        let mut environment = Environment::new();
        // With the Jinja settings of transformers (`_compile_jinja_template`).
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.add_template_owned("chat", source).map_err(|e| Error::invalid(&label, e))?;
        let mut question = Self { form: Form::Chat(environment), instruction, generation_prompt, after: Vec::new() };
        // The part after the document is what does not change with the document.
        let [first, second] = ["\u{1}", "\u{2}\u{3}"].map(|document| question.rendered("q", document, None));
        let (first, second) = (first?, second?);
        let (Some(end), true) = (first.rfind('\u{1}'), second.contains("\u{2}\u{3}")) else {
            return Err(Error::invalid(label, "the template leaves out the message of the role `document`"));
        };
        question.after = tokenizer.encode_bare(&first[end + 1..], 0)?;
        Ok(question)
    }

    fn before(&self) -> &[u32] {
        match &self.form {
            Form::Published(before) => before,
            Form::Chat(_) => &[],
        }
    }

    /// The text between the tokens that are never truncated. With a chat template it is the whole
    /// text, including the part after the document.
    fn rendered(&self, query: &str, document: &str, instruction: Option<&str>) -> Result<String> {
        let instruction = instruction.or(self.instruction.as_deref());
        let environment = match &self.form {
            Form::Published(_) => {
                let instruction = instruction.unwrap_or(INSTRUCTION);
                return Ok(format!("<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"));
            }
            Form::Chat(environment) => environment,
        };
        let message = |role: &str, content: &str| context! { role => role, content => content };
        let system = instruction.map(|instruction| message("system", instruction));
        let pair = [message("query", query), message("document", document)];
        let messages: Vec<_> = system.into_iter().chain(pair).collect();
        let values = context! { messages => messages, add_generation_prompt => self.generation_prompt };
        environment
            .get_template("chat")
            .and_then(|template| template.render(values))
            .map_err(|e| Error::invalid("chat_template.jinja", e))
    }

    /// The tokens of the question for each document. Long documents are truncated at their end;
    /// what follows the document always stays.
    pub(crate) fn tokens<D: AsRef<str> + Sync>(
        &self,
        tokenizer: &Tokenizer,
        query: &str,
        documents: &[D],
        instruction: Option<&str>,
    ) -> Result<Vec<Tokens>> {
        let tokens = |(i, document): (usize, &D)| self.tokens_of(tokenizer, query, document.as_ref(), i, instruction);
        documents.par_iter().enumerate().map(tokens).collect()
    }

    /// The tokens of the question for one document, on the calling thread. `index` is its position
    /// in the input, for errors.
    pub(crate) fn tokens_of(
        &self,
        tokenizer: &Tokenizer,
        query: &str,
        document: &str,
        index: usize,
        instruction: Option<&str>,
    ) -> Result<Tokens> {
        let text = self.rendered(query, document, instruction)?;
        let mut ids = [self.before(), &tokenizer.encode_bare(&text, index)?].concat();
        if let Form::Published(_) = self.form {
            ids.extend_from_slice(&self.after);
        }
        let full_len = ids.len();
        if full_len > tokenizer.max_length() {
            ids.truncate(tokenizer.max_length() - self.after.len());
            ids.extend_from_slice(&self.after);
        }
        Ok(Tokens::from_ids(ids, full_len))
    }
}

/// The chat template in a model's files, with its label, if it has a place for a query and a
/// document. A language model's usual template has none.
fn chat_template(own: &ModelFiles, config: &ModelConfig) -> Result<Option<(String, String)>> {
    let of_pairs = |source: &str| config.chat || (source.contains("document") && source.contains("query"));
    if let Some(content) = own.read("chat_template.jinja")? {
        let label = own.label("chat_template.jinja");
        let source = String::from_utf8(content).map_err(|e| Error::invalid(&label, e))?;
        return Ok(Some((label, source)).filter(|(_, source)| of_pairs(source)));
    }
    let Some(json) = Json::read(own, "tokenizer_config.json")? else { return Ok(None) };
    let source = json.get("chat_template").and_then(|value| value.as_str()).map(str::to_owned);
    Ok(source.filter(|source| of_pairs(source)).map(|source| (own.label("tokenizer_config.json"), source)))
}
