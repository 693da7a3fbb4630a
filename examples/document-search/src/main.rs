//! `document-search FOLDER`: indexes a folder, then serves its search page.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use document_search::error::{Error, Result};
use document_search::evaluate::{csv, evaluate};
use document_search::extract::PDF_THREAD;
use document_search::index::{self, IndexProgress, Report};
use document_search::models::{self, Models};
use document_search::search::{Mode, search};
use document_search::serve::App;
use document_search::{search as searching, store};
use gte_core::Precision;
use indicatif::{ProgressBar, ProgressStyle};

/// Indexes the text, Markdown, HTML and PDF files of a folder, and serves a page that finds the
/// passage that answers a question.
#[derive(Parser)]
#[command(
    name = "document-search",
    version,
    after_help = "To index changed files, run the command again, press Refresh on the page, or give \
    --watch. Indexing may be killed at any moment; the next run continues it."
)]
struct Options {
    /// The folder of documents. Hidden files and folders are ignored.
    folder: PathBuf,
    /// Directory or hub id of an embedding model, such as `thenlper/gte-large-zh`. Default: the
    /// bundled model, a small one for trials.
    #[arg(long, value_name = "DIR", default_value = gte_core::BUNDLED, hide_default_value = true)]
    model: String,
    /// Directory or hub id of a reranking model, which reorders the best 20 passages.
    #[arg(long, value_name = "DIR")]
    reranker: Option<String>,
    /// A file for SQLite, or postgres://USER@HOST/DATABASE with pgvector. Default:
    /// `.document-search.db` in the folder.
    #[arg(long, value_name = "FILE|URL")]
    database: Option<String>,
    /// Address and port of the page. Any address but 127.0.0.1 lets other machines search too, and
    /// there is no login.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7700")]
    listen: SocketAddr,
    /// While serving, look for changed files at this interval, in seconds. Default: only when
    /// Refresh is pressed.
    #[arg(long, value_name = "SECONDS")]
    watch: Option<std::num::NonZeroU64>,
    /// Maximum number of tokens per piece.
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    piece_tokens: usize,
    /// f32, bf16, int8, or auto. auto is bf16 if the CPU computes it natively, and f32 otherwise.
    #[arg(long, default_value_t)]
    precision: Precision,
    /// Number of threads per model. Default: as many as the process may use.
    #[arg(long)]
    threads: Option<usize>,
    /// Rebuild the index from scratch, for example for another model.
    #[arg(long)]
    rebuild: bool,
    /// Index, and do not serve.
    #[arg(long, conflicts_with_all = ["ask", "evaluate", "watch"])]
    index_only: bool,
    /// Index, print the passages that answer a question, and do not serve.
    #[arg(long, value_name = "QUESTION", conflicts_with_all = ["evaluate", "watch"])]
    ask: Option<String>,
    /// Index, print how often the questions of a file are answered, as CSV, and do not serve.
    #[arg(long, value_name = "FILE", conflicts_with = "watch")]
    evaluate: Option<PathBuf>,
}

fn main() -> ExitCode {
    quiet_about_broken_pdfs();
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// A PDF that makes its parser panic is listed among the files that cannot be read; the panic's own
/// message would tell nobody anything.
fn quiet_about_broken_pdfs() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some(PDF_THREAD) {
            default(panic);
        }
    }));
}

/// Writes a line to standard error. If nobody can read it, the index is made all the same.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "document-search: {line}");
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::file(Path::new("standard output")))
}

fn run(options: Options) -> Result<()> {
    if !options.folder.is_dir() {
        return Err(Error::Settings(format!("{} is not a folder", options.folder.display())));
    }
    let database = match &options.database {
        Some(database) => database.clone(),
        None => options.folder.join(".document-search.db").to_string_lossy().into_owned(),
    };
    let mut store = store::open(&database)?;
    let models = Models::load(&models::ModelOptions {
        model: options.model.clone(),
        reranker: options.reranker.clone(),
        precision: options.precision,
        threads: options.threads,
    })?;
    say(&format!("{:?}", models.embedder));
    if let Some(reranker) = &models.reranker {
        say(&format!("{reranker:?}"));
    }
    let (folder, piece_tokens) = (&options.folder, options.piece_tokens);
    index::prepare(folder, &models, piece_tokens, &mut *store, options.rebuild)?;
    let report = with_bar(|progress| index::refresh(folder, &models, piece_tokens, &mut *store, progress))?;
    summary(&report, &mut *store)?;
    if options.index_only {
        return Ok(());
    }
    if let Some(question) = &options.ask {
        return ask(&models, &mut *store, question);
    }
    if let Some(file) = &options.evaluate {
        return print(&csv(models.embedder.name(), &evaluate(&models, &mut *store, file)?));
    }
    drop(store);
    serve(App::new(options.folder, database, options.piece_tokens, models), options.listen, options.watch)
}

/// Shows the progress of `work` on a terminal.
fn with_bar(work: impl FnOnce(&mut dyn FnMut(IndexProgress)) -> Result<Report>) -> Result<Report> {
    let style = ProgressStyle::with_template("{pos} / {len} files {wide_bar} {msg} {eta}");
    let bar = ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let report = work(&mut |progress| {
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
        bar.set_message(format!("{} pieces", progress.pieces));
    });
    bar.finish_and_clear();
    report
}

fn summary(report: &Report, store: &mut dyn store::Store) -> Result<()> {
    let Report { added, changed, removed, unchanged, .. } = report;
    let counts = store.counts()?;
    say(&format!("{added} added, {changed} changed, {removed} removed, {unchanged} unchanged"));
    say(&format!("{} documents in {} pieces", counts.documents, counts.pieces));
    for (path, problem) in &counts.problems {
        say(&format!("not read: {path}: {problem}"));
    }
    Ok(())
}

fn ask(models: &Models, store: &mut dyn store::Store, question: &str) -> Result<()> {
    let options = searching::SearchOptions { mode: Mode::Hybrid, rerank: true, k: 5 };
    let mut out = String::new();
    for (i, hit) in search(models, store, question, options)?.iter().enumerate() {
        let passage = &hit.passage;
        let characters = &passage.characters;
        out += &format!("{}. {} [{}–{}]\n", i + 1, passage.path, characters.start, characters.end);
        out += &format!("   {}\n", passage.text.replace('\n', "\n   "));
    }
    print(if out.is_empty() { "nothing found\n" } else { &out })
}

fn serve(app: Arc<App>, listen: SocketAddr, watch: Option<std::num::NonZeroU64>) -> Result<()> {
    let place = PathBuf::from(listen.to_string());
    let failed = |e| Error::file(&place)(e);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed)?;
    if let Some(seconds) = watch {
        let (app, pause) = (Arc::clone(&app), Duration::from_secs(seconds.get()));
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(pause);
                app.refresh();
            }
        });
    }
    let served = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        print(&format!("http://{address}/\n"))?;
        let stop = async {
            // Without a signal to wait for, the process runs until it is killed.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        axum::serve(listener, app.router()).with_graceful_shutdown(stop).await.map_err(failed)
    });
    // A refresh that is under way may be stopped anywhere.
    runtime.shutdown_background();
    served
}
