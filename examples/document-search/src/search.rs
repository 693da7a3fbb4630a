//! A question to passages: by meaning, by words, both fused, and reordered by a reranker.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::Result;
use crate::models::Models;
use crate::store::{Passage, Store};
use crate::terms;

/// How passages are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Both rankings, fused.
    #[default]
    Hybrid,
    /// By the cosine of vectors.
    Dense,
    /// By BM25 over words and pairs of characters.
    Words,
}

/// How a search is made.
#[derive(Clone, Copy, Debug)]
pub struct SearchOptions {
    /// By what passages are found.
    pub mode: Mode,
    /// Whether the reranker, if there is one, reorders the best.
    pub rerank: bool,
    /// Passages at most.
    pub k: usize,
}

/// A passage that was found, with what each ranking says of it: a rank, from 1.
#[derive(Clone, Debug)]
pub struct Hit {
    /// The passage.
    pub passage: Passage,
    /// Rank by cosine, and the cosine.
    pub dense: Option<(usize, f32)>,
    /// Rank by BM25, and the score.
    pub words: Option<(usize, f32)>,
    /// From 0 to 1.
    pub reranked: Option<f32>,
}

/// Of reciprocal rank fusion, as its authors chose it: Cormack et al. 2009,
/// <https://doi.org/10.1145/1571941.1572114>.
const RANK_CONSTANT: f32 = 60.0;
/// Passages that each ranking gives to the fusion.
const CANDIDATES: usize = 50;
/// Passages that the reranker reads: its time grows with them.
const RERANKED: usize = 20;

/// The passages that answer `query`, best first.
///
/// # Errors
/// Those of the models and the database.
pub fn search(models: &Models, store: &mut dyn Store, query: &str, options: SearchOptions) -> Result<Vec<Hit>> {
    let candidates = CANDIDATES.max(options.k);
    let dense = match options.mode {
        Mode::Words => Vec::new(),
        Mode::Hybrid | Mode::Dense => store.nearest(&models.query(query)?, candidates)?,
    };
    let words = match options.mode {
        Mode::Dense => Vec::new(),
        Mode::Hybrid | Mode::Words => store.matching(&terms::of_query(query), candidates)?,
    };
    let reranker = models.reranker.as_ref().filter(|_| options.rerank);
    let most = if reranker.is_some() { options.k.max(RERANKED) } else { options.k };
    let order: Vec<i64> = fuse(&[&dense, &words]).into_iter().take(most).collect();
    let mut passages: HashMap<i64, Passage> = store.passages(&order)?.into_iter().map(|p| (p.id, p)).collect();
    let rank =
        |ranking: &[(i64, f32)], id| ranking.iter().position(|&(other, _)| other == id).map(|i| (i + 1, ranking[i].1));
    let hit = |id| {
        let passage = passages.remove(&id)?;
        Some(Hit { passage, dense: rank(&dense, id), words: rank(&words, id), reranked: None })
    };
    let mut hits: Vec<Hit> = order.into_iter().filter_map(hit).collect();
    if let Some(reranker) = reranker {
        let read: Vec<String> = hits.iter().map(|hit| text_with_title(&hit.passage)).collect();
        for (hit, score) in hits.iter_mut().zip(reranker.scores(query, &read)?) {
            hit.reranked = Some(score);
        }
        hits.sort_by(|a, b| b.reranked.unwrap_or(0.0).total_cmp(&a.reranked.unwrap_or(0.0)));
        hits.truncate(options.k);
    }
    Ok(hits)
}

fn text_with_title(passage: &Passage) -> String {
    format!("{}\n{}", passage.title, passage.text)
}

/// The ids of several rankings by the sum of 1 / (60 + rank); equal ones in order of their ids.
fn fuse(rankings: &[&[(i64, f32)]]) -> Vec<i64> {
    let mut scores: HashMap<i64, f32> = HashMap::new();
    for ranking in rankings {
        for (i, (id, _)) in ranking.iter().enumerate() {
            *scores.entry(*id).or_default() += 1.0 / (RANK_CONSTANT + (i + 1) as f32);
        }
    }
    let mut fused: Vec<(i64, f32)> = scores.into_iter().collect();
    fused.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    fused.into_iter().map(|(id, _)| id).collect()
}

/// The characters of the sentence in `passage` that answers best, by its vector and by its words;
/// `None` if the passage is one sentence.
///
/// # Errors
/// Those of the model.
pub fn best_sentence(models: &Models, query: &str, passage: &str) -> Result<Option<Range<usize>>> {
    let characters: Vec<char> = passage.chars().collect();
    let sentences = sentences(passage);
    let texts: Vec<String> = sentences.iter().map(|range| characters[range.clone()].iter().collect()).collect();
    // A heading says what is asked, and answers nothing.
    let full: Vec<usize> = (0..texts.len()).filter(|&i| texts[i].ends_with(['。', '！', '；', '.'])).collect();
    if full.len() < 2 {
        return Ok(None);
    }
    let read: Vec<&str> = full.iter().map(|&i| texts[i].as_str()).collect();
    let (asked, words) = (models.query(query)?, terms::of_query(query));
    let cosine = |row: &[f32]| row.iter().zip(&asked).map(|(a, b)| a * b).sum::<f32>();
    let by_vector = models.passages(&read)?.rows().map(cosine).collect();
    let shared = |text: &&str| {
        let own = terms::of_text(text);
        words.iter().filter(|word| own.contains(word)).count() as f32
    };
    let by_words = read.iter().map(shared).collect();
    let order = fuse(&[&ranking(by_vector), &ranking(by_words)]);
    Ok(order.first().map(|&best| sentences[full[best as usize]].clone()))
}

/// The positions of the scores that are above 0, by falling score.
fn ranking(scores: Vec<f32>) -> Vec<(i64, f32)> {
    let mut ranking: Vec<(i64, f32)> = (0..).zip(scores).filter(|(_, score)| *score > 0.0).collect();
    ranking.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranking
}

/// The characters of each sentence, without the white space around it.
fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut sentences = Vec::new();
    let mut start = None;
    let mut end = 0;
    for (i, c) in text.chars().enumerate() {
        if !c.is_whitespace() {
            start.get_or_insert(i);
            end = i + 1;
        }
        if matches!(c, '。' | '！' | '？' | '；' | '\n') {
            sentences.extend(start.take().map(|start| start..end));
        }
    }
    sentences.extend(start.map(|start| start..end));
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passage_of_both_rankings_comes_before_the_first_of_one() {
        assert_eq!(fuse(&[&[(1, 0.9), (2, 0.8)], &[(3, 7.0), (2, 6.0)]]), [2, 1, 3]);
        assert_eq!(fuse(&[&[], &[(3, 7.0), (2, 6.0)]]), [3, 2]);
        assert!(fuse(&[&[], &[]]).is_empty());
    }

    #[test]
    fn sentences_are_told_by_their_characters() {
        assert_eq!(sentences("一。 二三！\n\n四"), [0..2, 3..6, 8..9]);
        assert!(sentences(" \n").is_empty());
    }
}
