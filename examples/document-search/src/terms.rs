//! Text to terms, the words of full-text search, the same for both databases.
//!
//! Chinese has no spaces, and the tokenizers that databases bring do not fit: FTS5's `trigram`
//! finds nothing for a query of two characters, which most Chinese words are, and PostgreSQL's
//! parser takes a whole clause for one word. So each run of Chinese characters becomes its
//! characters and its overlapping pairs: 退货政策 is 退, 货, 政, 策, 退货, 货政, 政策. A query is asked by its
//! pairs, and by a character where it stands alone. A dictionary would split more finely, but what
//! it does not know it splits wrongly, and a query is not always split as the page was.

use std::collections::HashSet;

/// Pairs in which questions are asked, and which say nothing of what they ask for.
const ASKING: [&str; 30] = [
    "怎么", "么办", "怎样", "如何", "什么", "是什", "为什", "为何", "多少", "多久", "多长", "哪里", "哪儿", "哪个",
    "哪些", "在哪", "几个", "几天", "是否", "能否", "可否", "能不", "不能", "可以", "以吗", "请问", "需要", "要什",
    "怎么", "有没",
];

/// The terms of a text, in order, with repetitions.
pub fn of_text(text: &str) -> Vec<String> {
    let mut terms = Vec::new();
    for run in runs(text) {
        match run {
            Run::Word(word) => terms.push(word),
            Run::Chinese(characters) => {
                terms.extend(characters.iter().map(char::to_string));
                terms.extend(pairs(&characters));
            }
        }
    }
    terms
}

/// The terms that a query is asked by, each once.
pub fn of_query(query: &str) -> Vec<String> {
    let mut terms = Vec::new();
    for run in runs(query) {
        match run {
            Run::Word(word) => terms.push(word),
            Run::Chinese(characters) if characters.len() == 1 => terms.push(characters[0].to_string()),
            Run::Chinese(characters) => terms.extend(pairs(&characters)),
        }
    }
    let mut seen = HashSet::new();
    terms.retain(|term| seen.insert(term.clone()));
    if terms.iter().any(|term| !ASKING.contains(&term.as_str())) {
        terms.retain(|term| !ASKING.contains(&term.as_str()));
    }
    terms
}

fn pairs(characters: &[char]) -> impl Iterator<Item = String> {
    characters.windows(2).map(|pair| pair.iter().collect())
}

enum Run {
    Word(String),
    Chinese(Vec<char>),
}

/// The words and the runs of Chinese characters of a text. Letters are lower-case and half-width.
fn runs(text: &str) -> Vec<Run> {
    let mut runs = Vec::new();
    for c in text.chars().map(half_width) {
        match runs.last_mut() {
            Some(Run::Chinese(run)) if is_chinese(c) => run.push(c),
            _ if is_chinese(c) => runs.push(Run::Chinese(vec![c])),
            Some(Run::Word(word)) if c.is_alphanumeric() => word.extend(c.to_lowercase()),
            _ if c.is_alphanumeric() => runs.push(Run::Word(c.to_lowercase().collect())),
            // What stands between two runs ends the first.
            _ => runs.push(Run::Word(String::new())),
        }
    }
    runs.retain(|run| !matches!(run, Run::Word(word) if word.is_empty()));
    runs
}

/// The ASCII character of a full-width one: Ａ is A, １ is 1.
fn half_width(c: char) -> char {
    match u32::from(c) {
        code @ 0xff01..=0xff5e => char::from_u32(code - 0xfee0).unwrap_or(c),
        _ => c,
    }
}

/// Han characters, and kana and hangul, which are written without spaces too or nearly so.
pub(crate) fn is_chinese(c: char) -> bool {
    matches!(u32::from(c),
        0x3040..=0x30ff | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xac00..=0xd7af | 0xf900..=0xfaff | 0x20000..=0x323af)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_becomes_words_characters_and_pairs() {
        assert_eq!(of_text("退货政策"), ["退", "货", "政", "策", "退货", "货政", "政策"]);
        assert_eq!(of_text("Ｗi-Fi 密码:ＡＢ12"), ["wi", "fi", "密", "码", "密码", "ab12"]);
        assert!(of_text(" ，。\n").is_empty());
    }

    #[test]
    fn a_query_is_asked_by_pairs_and_by_a_lone_character() {
        assert_eq!(of_query("退货"), ["退货"]);
        assert_eq!(of_query("税"), ["税"]);
        assert_eq!(of_query("VPN 连不上，VPN"), ["vpn", "连不", "不上"]);
    }

    #[test]
    fn words_of_asking_count_only_where_there_is_nothing_else() {
        assert_eq!(of_query("怎么退货"), ["么退", "退货"]);
        assert_eq!(of_query("怎么"), ["怎么"]);
    }
}
