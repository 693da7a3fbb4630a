//! The index follows a folder, in SQLite, and in PostgreSQL where `DOCUMENT_SEARCH_POSTGRES` names
//! a database that may be emptied (`tests/run.sh` does).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use document_search::index::{self, Report};
use document_search::models::{ModelOptions, Models};
use document_search::search::{self, Hit, Mode};
use document_search::store::{self, Counts, Store};
use gte_core::Precision;

static MODELS: LazyLock<Models> = LazyLock::new(|| {
    let model = gte_core::BUNDLED.to_owned();
    Models::load(&ModelOptions { model, reranker: None, precision: Precision::F32, threads: Some(1) }).unwrap()
});
const TOKENS: usize = 96;

/// A folder with an index; the folder is gone at the end.
struct Index {
    folder: tempfile::TempDir,
    store: Box<dyn Store>,
}

impl Index {
    fn new(store: Box<dyn Store>) -> Self {
        let mut index = Self { folder: tempfile::tempdir().unwrap(), store };
        index.prepare(true).unwrap();
        index
    }

    fn sqlite() -> Self {
        Self::new(store::open(":memory:").unwrap())
    }

    fn prepare(&mut self, rebuild: bool) -> document_search::error::Result<()> {
        index::prepare(self.folder.path(), &MODELS, TOKENS, &mut *self.store, rebuild)
    }

    /// Writes a file that changed some time ago, so that its time can be trusted.
    fn write(&self, name: &str, content: impl AsRef<[u8]>, seconds_ago: u64) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let time = SystemTime::now() - Duration::from_secs(seconds_ago);
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        path
    }

    fn refresh(&mut self) -> Report {
        index::refresh(self.folder.path(), &MODELS, TOKENS, &mut *self.store, &mut |_| {}).unwrap()
    }

    fn search(&mut self, query: &str, mode: Mode) -> Vec<Hit> {
        let options = search::SearchOptions { mode, rerank: false, k: 5 };
        search::search(&MODELS, &mut *self.store, query, options).unwrap()
    }

    fn paths(&mut self, query: &str, mode: Mode) -> Vec<String> {
        self.search(query, mode).into_iter().map(|hit| hit.passage.path).collect()
    }

    fn counts(&mut self) -> Counts {
        self.store.counts().unwrap()
    }
}

/// Every test of a database, for the databases that there are.
fn each(test: fn(Index)) {
    test(Index::sqlite());
    match std::env::var("DOCUMENT_SEARCH_POSTGRES") {
        // One database: one test after the other.
        Ok(database) => {
            static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
            let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            test(Index::new(store::open(&database).unwrap()));
        }
        Err(_) => println!("not run on PostgreSQL: DOCUMENT_SEARCH_POSTGRES is not set; tests/run.sh sets it"),
    }
}

fn report(added: usize, changed: usize, removed: usize, unchanged: usize) -> Report {
    Report { added, changed, removed, unchanged, unreadable: 0 }
}

const RETURNS: &str = "# 退货政策\n\n签收后七天之内可以无理由退货。";
const LEAVE: &str = "年休假\n工作满一年的员工每年有五天年假。";

#[test]
fn the_index_follows_the_folder() {
    each(|mut index| {
        assert_eq!(index.refresh(), report(0, 0, 0, 0));
        index.write("售后/退货.md", RETURNS, 60);
        index.write("年假.txt", LEAVE, 60);
        index.write(".hidden.txt", "不该出现", 60);
        index.write("程序.exe", "不该出现", 60);
        assert_eq!(index.refresh(), report(2, 0, 0, 0));
        assert_eq!(index.refresh(), report(0, 0, 0, 2));
        assert_eq!(index.paths("怎么退货", Mode::Hybrid)[0], "售后/退货.md");

        // Another content of the same length, and the same content at another time.
        index.write("年假.txt", LEAVE.replace('五', "六"), 30);
        index.write("售后/退货.md", RETURNS, 30);
        assert_eq!(index.refresh(), report(0, 1, 0, 1));
        assert!(index.search("年假", Mode::Words)[0].passage.text.contains("六天"));
        assert_eq!(index.counts(), Counts { documents: 2, pieces: 2, problems: Vec::new() });

        fs::rename(index.folder.path().join("年假.txt"), index.folder.path().join("休假.txt")).unwrap();
        assert_eq!(index.refresh(), report(1, 0, 1, 1));
        fs::remove_dir_all(index.folder.path().join("售后")).unwrap();
        assert_eq!(index.refresh(), report(0, 0, 1, 1));
        assert!(index.paths("退货", Mode::Words).is_empty());
        assert_eq!(index.paths("退货", Mode::Dense), ["休假.txt"]);
    });
}

#[test]
fn a_file_that_changed_a_moment_ago_is_read_again() {
    each(|mut index| {
        let path = index.write("年假.txt", LEAVE, 0);
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(index.refresh(), report(1, 0, 0, 0));
        // The same length and time: a second change within the clock's step.
        fs::write(&path, LEAVE.replace('五', "六")).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        assert_eq!(index.refresh(), report(0, 1, 0, 0));
        assert_eq!(index.refresh(), report(0, 0, 0, 1));
    });
}

#[test]
fn words_of_one_two_and_more_characters_are_found() {
    each(|mut index| {
        index.write("一.txt", "增值税发票由财务开。", 60);
        index.write("二.txt", "请假要提前三天。", 60);
        index.write("三.txt", "ＶＰＮ 的错误 E1023。", 60);
        index.refresh();
        for (query, path) in
            [("税", "一.txt"), ("发票", "一.txt"), ("请假", "二.txt"), ("vpn", "三.txt"), ("e1023", "三.txt")]
        {
            assert_eq!(index.paths(query, Mode::Words), [path], "{query}");
        }
        for query in ["？！", "\" OR \"", "'); DROP TABLE documents; --", "a:b & !c"] {
            index.paths(query, Mode::Hybrid);
        }
        assert!(index.paths("猫", Mode::Words).is_empty());
        assert_eq!(index.counts().documents, 3);
    });
}

#[test]
fn a_passage_lies_where_it_says() {
    each(|mut index| {
        // Characters of one to four bytes, of which JavaScript counts some twice.
        let long: String = (1..=40).map(|i| format!("第 {i} 条：𠮷野家的 café 在 {i} 楼 😀。\n\n")).collect();
        index.write("长.md", format!("# 楼层\n\n{long}"), 60);
        index.refresh();
        assert!(index.counts().pieces > 3);
        let passage = index.search("第 37 条", Mode::Words)[0].passage.clone();
        let document = index.store.document(passage.document).unwrap().unwrap();
        let characters: Vec<char> = document.text.chars().collect();
        let between: String = characters[passage.characters.clone()].iter().collect();
        assert_eq!(between, passage.text);
        assert!(passage.text.contains("第 37 条") && document.title == "楼层");
    });
}

#[test]
fn a_file_that_cannot_be_read_is_listed_until_it_can() {
    each(|mut index| {
        index.write("坏.pdf", "%PDF-1.7 坏", 60);
        index.write("空.txt", "", 60);
        assert_eq!(index.refresh(), Report { added: 2, unreadable: 2, ..Report::default() });
        assert_eq!(index.refresh(), report(0, 0, 0, 2));
        let problems = index.counts().problems;
        assert_eq!(problems.len(), 2);
        assert!(problems.iter().any(|(path, why)| path == "空.txt" && why.contains("no text")), "{problems:?}");
        index.write("空.txt", LEAVE, 30);
        assert_eq!(index.refresh(), report(0, 1, 0, 1));
        assert_eq!(index.counts().problems.len(), 1);
    });
}

#[test]
fn a_pdf_that_chromium_printed_is_read_with_its_chinese() {
    let mut index = Index::sqlite();
    index.write("灭火器.pdf", include_bytes!("extinguisher.pdf"), 60);
    assert_eq!(index.refresh(), report(1, 0, 0, 0));
    let hit = &index.search("电器着火", Mode::Words)[0].passage;
    assert_eq!(hit.title, "灭火器的使用");
    assert!(hit.text.contains("电器着火用二氧化碳或者干粉，不能用水。"), "{}", hit.text);
}

#[test]
fn an_index_of_something_else_is_refused_by_name() {
    each(|mut index| {
        index.prepare(false).unwrap();
        let mut prepare = |folder: &Path, tokens| index::prepare(folder, &MODELS, tokens, &mut *index.store, false);
        let other = tempfile::tempdir().unwrap();
        let error = prepare(other.path(), TOKENS).unwrap_err().to_string();
        assert!(error.contains(&*other.path().canonicalize().unwrap().to_string_lossy()), "{error}");
        assert!(error.contains("--rebuild"), "{error}");
        let error = prepare(index.folder.path(), 64).unwrap_err().to_string();
        assert!(error.contains("96 tokens"), "{error}");
        let error = prepare(index.folder.path(), 100_000).unwrap_err().to_string();
        assert!(error.contains("from 16 to 256"), "{error}");

        let settings = index.store.settings().unwrap().unwrap();
        let mut changed: serde_json::Value = serde_json::from_str(&settings).unwrap();
        let probe = changed["probe"].as_array_mut().unwrap();
        probe.iter_mut().for_each(|value| *value = (-value.as_f64().unwrap()).into());
        index.store.set_settings(&changed.to_string()).unwrap();
        let error = index.prepare(false).unwrap_err().to_string();
        assert!(error.contains("another model of that name"), "{error}");
        index.prepare(true).unwrap();
        index.prepare(false).unwrap();
    });
}

#[test]
fn another_kind_of_database_is_refused() {
    let error = store::open("mysql://localhost/x").err().unwrap().to_string();
    assert!(error.contains("mysql://") && error.contains("postgres://"), "{error}");
}
