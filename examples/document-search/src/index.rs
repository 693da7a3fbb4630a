//! The index follows the folder: new and changed files are read, cut, embedded and written, deleted
//! ones leave. What is written stays when the process is killed; the next run goes on from there.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::extract::{Kind, extract};
use crate::models::Models;
use crate::store::{FileState, NewDocument, NewPiece, Store};
use crate::{pieces, terms};

/// What an index is of, and what it was made with: another value makes it worthless.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Settings {
    version: u32,
    folder: PathBuf,
    model: String,
    piece_tokens: usize,
    /// The vector of [`PROBE`]: two models may have one name and one length.
    probe: Vec<f32>,
}

/// Counts up with every change of tables, terms or pieces.
const VERSION: u32 = 1;
const PROBE: &str = "怎么退货？How do I return it?";

/// What a refresh did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Files that were not in the index.
    pub added: usize,
    /// Files with another content than before.
    pub changed: usize,
    /// Files that are gone.
    pub removed: usize,
    /// Files that are as before.
    pub unchanged: usize,
    /// Of those added and changed, files that cannot be read.
    pub unreadable: usize,
}

/// How far a refresh is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct IndexProgress {
    /// Files that are done.
    pub done: usize,
    /// Files that are new or changed.
    pub total: usize,
    /// Pieces that were written.
    pub pieces: usize,
}

/// Files above this length are not read: they are dumps or archives, not documents.
const MAX_BYTES: u64 = 64 << 20;
/// Documents are written together when they have this many pieces: enough to keep the model busy,
/// few enough that a kill loses little.
const PIECES_PER_WRITE: usize = 64;
/// The last part of a title that stands before each of its pieces, in characters.
const TITLE: usize = 60;

/// Makes an empty index, or checks that the one there is of this folder and this model. With
/// `rebuild`, one of others is removed.
///
/// # Errors
/// [`Error::Settings`] if the index is of another folder, model or length of pieces.
pub fn prepare(
    folder: &Path,
    models: &Models,
    piece_tokens: usize,
    store: &mut dyn Store,
    rebuild: bool,
) -> Result<()> {
    let embedder = &models.embedder;
    let most = embedder.max_length();
    if !(16..=most).contains(&piece_tokens) {
        return Err(Error::Settings(format!(
            "--piece-tokens {piece_tokens}: {} takes from 16 to {most} tokens",
            embedder.name()
        )));
    }
    let probe = models.passages(&[PROBE])?.into_vec();
    let folder = folder.canonicalize().map_err(Error::file(folder))?;
    let settings = Settings { version: VERSION, folder, model: embedder.name().to_owned(), piece_tokens, probe };
    match store.settings()? {
        Some(_) if rebuild => store.clear()?,
        Some(found) => return settings.check(&found),
        None => {}
    }
    store.create(embedder.dim())?;
    store.set_settings(&serde_json::to_string(&settings).map_err(|e| Error::Settings(e.to_string()))?)
}

impl Settings {
    fn check(&self, found: &str) -> Result<()> {
        let differs = |what: &str, found: String, now: String| {
            Err(Error::Settings(format!(
                "the index is {what} {found}, not {now}: name another file or database with --database, or make \
                 the index again with --rebuild"
            )))
        };
        let Ok(found) = serde_json::from_str::<Self>(found) else {
            return differs("of another version", "of this application".into(), VERSION.to_string());
        };
        let cosine: f32 = self.probe.iter().zip(&found.probe).map(|(a, b)| a * b).sum();
        if found.version != self.version {
            return differs("of version", found.version.to_string(), self.version.to_string());
        }
        if found.folder != self.folder {
            return differs("of", found.folder.display().to_string(), self.folder.display().to_string());
        }
        // The precisions of one model give nearly the same vector.
        if found.probe.len() != self.probe.len() || cosine < 0.98 {
            let other = if found.model == self.model { "another model of that name" } else { &self.model };
            return differs("made with the model", found.model, other.to_owned());
        }
        if found.piece_tokens != self.piece_tokens {
            let (found, now) = (found.piece_tokens.to_string(), self.piece_tokens.to_string());
            return differs("of pieces of at most", format!("{found} tokens"), now);
        }
        Ok(())
    }
}

/// Brings the index up to the folder as it is now.
///
/// # Errors
/// [`Error::File`] if the folder, or one in it, cannot be listed: files that are merely out of
/// sight must not leave the index. [`Error::Model`] and those of the database.
pub fn refresh(
    folder: &Path,
    models: &Models,
    piece_tokens: usize,
    store: &mut dyn Store,
    progress: &mut dyn FnMut(IndexProgress),
) -> Result<Report> {
    let files = list(folder)?;
    let mut known = store.files()?;
    let mut report = Report::default();
    let mut candidates = Vec::new();
    for (path, file) in files {
        let before = known.remove(&path);
        match before {
            Some(before) if (before.modified, before.size) == (file.modified, file.size) => report.unchanged += 1,
            before => candidates.push((path, file, before)),
        }
    }
    let gone: Vec<String> = known.into_keys().collect();
    report.removed = gone.len();
    store.remove(&gone)?;

    let mut state = IndexProgress { total: candidates.len(), ..IndexProgress::default() };
    progress(state);
    let mut same = Vec::new();
    let mut batch = Batch::default();
    for (path, file, before) in candidates {
        state.done += 1;
        let Some((document, cut)) = read(path, &file, before.as_ref(), models, piece_tokens, &mut same)? else {
            report.unchanged += usize::from(before.is_some());
            progress(state);
            continue;
        };
        report.unreadable += usize::from(document.problem.is_some());
        match before {
            Some(_) => report.changed += 1,
            None => report.added += 1,
        }
        batch.push(document, cut);
        if batch.texts.len() >= PIECES_PER_WRITE {
            state.pieces += batch.write(models, store)?;
        }
        progress(state);
    }
    state.pieces += batch.write(models, store)?;
    store.touch(&same)?;
    progress(state);
    Ok(report)
}

/// A file as the folder lists it.
struct Listed {
    path: PathBuf,
    kind: Kind,
    modified: i64,
    size: i64,
}

/// The documents below a folder, by path. Hidden files and folders are passed over, links to
/// folders are not followed.
fn list(folder: &Path) -> Result<Vec<(String, Listed)>> {
    let mut files = Vec::new();
    for entry in ignore::WalkBuilder::new(folder).standard_filters(false).hidden(true).build() {
        let entry = entry.map_err(|e| unlisted(folder, e))?;
        let path = entry.path();
        let Some(kind) = Kind::of(path) else { continue };
        // A file that is deleted while the folder is listed is gone.
        let Ok(metadata) = path.metadata() else { continue };
        if !metadata.is_file() {
            continue;
        }
        let below = path.strip_prefix(folder).unwrap_or(path);
        let name = below.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
        let modified = metadata.modified().map_err(Error::file(path))?;
        let (modified, size) = (nanoseconds(modified), metadata.len() as i64);
        files.push((name, Listed { path: path.to_owned(), kind, modified, size }));
    }
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(files)
}

fn unlisted(folder: &Path, error: ignore::Error) -> Error {
    let message = error.to_string();
    let source = error.into_io_error().unwrap_or_else(|| std::io::Error::other(message));
    Error::File { path: folder.to_owned(), source }
}

fn nanoseconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// A document and its pieces' texts behind their title, before there are vectors; none if the
/// content is that of `before`, or the file is gone meanwhile.
fn read(
    path: String,
    file: &Listed,
    before: Option<&FileState>,
    models: &Models,
    piece_tokens: usize,
    same: &mut Vec<(String, FileState)>,
) -> Result<Option<(NewDocument, Vec<String>)>> {
    let problem = |state, problem: String| {
        let title = file.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let kind = file.kind.name();
        let text = String::new();
        NewDocument { path: path.clone(), state, kind, title, text, problem: Some(problem), pieces: Vec::new() }
    };
    let mut state = FileState { modified: file.modified, size: file.size, hash: String::new() };
    if file.size as u64 > MAX_BYTES {
        let message = format!("larger than {} MB: split it, or take it out of the folder", MAX_BYTES >> 20);
        return Ok(Some((problem(state, message), Vec::new())));
    }
    // A file that changed a moment ago may change again within the clock's step.
    let age = nanoseconds(SystemTime::now()) - file.modified;
    if age < Duration::from_secs(2).as_nanos() as i64 {
        state.modified = 0;
    }
    let bytes = match std::fs::read(&file.path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        // It is tried again each time, and told once.
        Err(_) if before.is_some_and(|before| before.hash.is_empty()) => return Ok(None),
        Err(e) => return Ok(Some((problem(FileState { modified: 0, ..state }, e.to_string()), Vec::new()))),
    };
    state.hash = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if before.is_some_and(|before| before.hash == state.hash) {
        same.push((path, state));
        return Ok(None);
    }
    let extracted = match extract(file.kind, &file.path, &bytes) {
        Ok(extracted) => extracted,
        Err(message) => return Ok(Some((problem(state, message), Vec::new()))),
    };
    let cut = pieces::cut(&extracted.text, file.kind, &models.embedder, piece_tokens)?;
    let title: String = extracted.title.chars().take(TITLE).collect();
    // A piece in the middle of a page does not say what the page is about: its title does.
    let texts = cut.iter().map(|piece| format!("{title}\n{}", piece.text)).collect();
    let pieces = cut.into_iter().map(|piece| NewPiece {
        characters: piece.characters,
        terms: terms::of_text(&format!("{title}\n{}", piece.text)),
        vector: Vec::new(),
    });
    let pieces = pieces.collect();
    let (title, text) = (extracted.title, extracted.text);
    let document = NewDocument { path, state, kind: file.kind.name(), title, text, problem: None, pieces };
    Ok(Some((document, texts)))
}

/// Documents that are embedded and written together.
#[derive(Default)]
struct Batch {
    documents: Vec<NewDocument>,
    texts: Vec<String>, // of all their pieces, in order
}

impl Batch {
    fn push(&mut self, document: NewDocument, texts: Vec<String>) {
        self.documents.push(document);
        self.texts.extend(texts);
    }

    /// Writes the documents, and is empty again; the number of pieces.
    fn write(&mut self, models: &Models, store: &mut dyn Store) -> Result<usize> {
        let texts = std::mem::take(&mut self.texts);
        let vectors = models.passages(&texts)?;
        let pieces = self.documents.iter_mut().flat_map(|document| &mut document.pieces);
        for (piece, vector) in pieces.zip(vectors.rows()) {
            piece.vector = vector.to_vec();
        }
        store.write(&std::mem::take(&mut self.documents))?;
        Ok(texts.len())
    }
}
