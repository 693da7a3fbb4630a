//! SentencePiece's Unigram: of all ways to split a word into pieces, it selects the one with the
//! best sum of scores. The ids equal those of the crate `tokenizers` (`models/unigram/model.rs`
//! there), including ties. It exists because the crate needs more than a second to build its model
//! for XLM-R's 250,002 pieces; ours needs a twentieth of that.
//!
//! The pieces form a tree of letters, stored in one open hash table: the number of a node is its
//! slot, and a step from a node to the next by a letter is one look-up, usually a single cache
//! line.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tokenizers::models::TrainerWrapper;
use tokenizers::models::unigram::UnigramTrainer;
use tokenizers::{Model, Token};

/// No node, or no piece.
const NONE: u32 = u32::MAX;

/// The parent of first letters.
const ROOT: u32 = u32::MAX;

/// A flag in a node's letter: there are longer pieces.
const LONGER: u32 = 1 << 31;

/// The difference between the worst score and that of an unknown letter.
const UNKNOWN_PENALTY: f64 = 10.0;

pub(super) struct Unigram {
    nodes: Box<[Node]>,
    scores: Box<[f64]>,   // by id
    node_of: Box<[u32]>,  // by id
    unknown: Option<u32>, // id
    unknown_score: f64,
    byte_fallback: bool,
}

#[derive(Clone, Copy)]
struct Node {
    parent: u32,
    letter: u32, // NONE: the slot is free
    id: u32,
}

const FREE: Node = Node { parent: NONE, letter: NONE, id: NONE };

/// A letter of a word, with the node of the pieces that begin with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) letter: u32,
    pub(super) first: u32,
}

/// The best way to split a word up to some letter: its score, and its last piece.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    start: u32, // NONE: no way found yet
    id: u32,
}

/// Memory that is reused for one word after the other.
#[derive(Default)]
pub(super) struct Scratch {
    best: Vec<Best>,
    cuts: Vec<(u32, u32, bool)>, // start, id, whether it is unknown; from the last piece to the first
}

impl Unigram {
    /// Pieces and their scores. The index of a piece is its id. Of two equal pieces, the later one
    /// counts.
    pub(super) fn new<'p>(
        pieces: impl ExactSizeIterator<Item = (&'p str, f64)> + Clone,
        unknown: Option<usize>,
        byte_fallback: bool,
    ) -> Result<Self, String> {
        let len = pieces.len();
        if let Some(id) = unknown.filter(|&id| id >= len) {
            return Err(format!("its unknown token is {id}, but it has {len} pieces"));
        }
        if len >= LONGER as usize {
            return Err(format!("it has {len} pieces"));
        }
        let letters: usize = pieces.clone().map(|(piece, _)| piece.chars().count()).sum();
        // The pieces of one language share half of their letters. If they share less, the table is
        // built again with twice the size.
        let mut room = (letters * 5 / 8).max(16);
        let mut unigram = loop {
            match Self::build(pieces.clone(), room) {
                Some(unigram) => break unigram,
                None => room *= 2,
            }
        };
        let worst = unigram.scores.iter().copied().fold(f64::INFINITY, f64::min);
        unigram.unknown = unknown.map(|id| id as u32);
        unigram.unknown_score = worst - UNKNOWN_PENALTY;
        unigram.byte_fallback = byte_fallback;
        Ok(unigram)
    }

    /// None if `room` slots are too few.
    fn build<'p>(pieces: impl ExactSizeIterator<Item = (&'p str, f64)>, room: usize) -> Option<Self> {
        let mut unigram = Self {
            nodes: vec![FREE; room].into(),
            scores: vec![0.0; pieces.len()].into(),
            node_of: vec![NONE; pieces.len()].into(),
            unknown: None,
            unknown_score: 0.0,
            byte_fallback: false,
        };
        let mut left = room - room / 8;
        for (id, (piece, score)) in (0..).zip(pieces) {
            let mut place = ROOT;
            for letter in piece.chars().map(u32::from) {
                if place != ROOT {
                    unigram.nodes[place as usize].letter |= LONGER;
                }
                let next = unigram.place(place, letter);
                if unigram.nodes[next].letter == NONE {
                    left = left.checked_sub(1)?;
                    unigram.nodes[next] = Node { parent: place, letter, id: NONE };
                }
                place = next as u32;
            }
            if place != ROOT {
                unigram.nodes[place as usize].id = id;
            }
            unigram.node_of[id as usize] = place;
            unigram.scores[id as usize] = score;
        }
        Some(unigram)
    }

    /// The slot of the node that follows `parent` by `letter`, or where it would be.
    fn place(&self, parent: u32, letter: u32) -> usize {
        let len = self.nodes.len();
        let key = (u64::from(parent) << 32 | u64::from(letter)) ^ 0x243F_6A88_85A3_08D3;
        let mixed = u128::from(key) * 0x9E37_79B9_7F4A_7C15;
        let hash = (mixed >> 64) as u64 ^ mixed as u64;
        let mut place = ((u128::from(hash) * len as u128) >> 64) as usize;
        loop {
            let node = self.nodes[place];
            if node.letter == NONE || (node.parent == parent && node.letter & !LONGER == letter) {
                return place;
            }
            place += 1;
            if place == len {
                place = 0;
            }
        }
    }

    fn find(&self, parent: u32, letter: u32) -> Option<u32> {
        let place = self.place(parent, letter);
        (self.nodes[place].letter != NONE).then_some(place as u32)
    }

    /// A letter with the pieces that begin with it.
    pub(super) fn letter(&self, c: char) -> Letter {
        Letter { letter: c.into(), first: self.find(ROOT, c.into()).unwrap_or(NONE) }
    }

    /// The id of a piece.
    fn id_of(&self, letters: impl Iterator<Item = u32>) -> Option<u32> {
        let mut place = ROOT;
        for letter in letters {
            place = self.find(place, letter)?;
        }
        Some(place).filter(|&place| place != ROOT).map(|place| self.nodes[place as usize].id).filter(|&id| id != NONE)
    }

    /// Splits a word; afterwards `cuts` has the pieces, the last one first. None if a letter is
    /// unknown and there is no token for unknown letters.
    fn cut(&self, word: &[Letter], Scratch { best, cuts }: &mut Scratch) -> Option<()> {
        best.clear();
        best.resize(word.len() + 1, Best { score: 0.0, start: NONE, id: NONE });
        for start in 0..word.len() {
            let so_far = best[start].score;
            let mut single = false;
            let (mut end, mut place) = (start, word[start].first);
            while place != NONE {
                end += 1;
                let node = self.nodes[place as usize];
                if node.id != NONE {
                    let score = self.scores[node.id as usize] + so_far;
                    if best[end].start == NONE || score > best[end].score {
                        best[end] = Best { score, start: start as u32, id: node.id };
                    }
                    single |= end == start + 1;
                }
                if end == word.len() || node.letter & LONGER == 0 {
                    break;
                }
                place = self.find(place, word[end].letter).unwrap_or(NONE);
            }
            if !single {
                let score = self.unknown_score + so_far;
                let best = &mut best[start + 1];
                if best.start == NONE || score > best.score {
                    *best = Best { score, start: start as u32, id: self.unknown? };
                }
            }
        }
        cuts.clear();
        let mut end = word.len();
        while end > 0 {
            let Best { start, id, .. } = best[end];
            let unknown = Some(id) == self.unknown;
            match cuts.last_mut() {
                // Unknown pieces next to each other become one.
                Some((first, _, true)) if unknown => *first = start,
                _ => cuts.push((start, id, unknown)),
            }
            end = start as usize;
        }
        Some(())
    }

    /// The ids of unknown letters: a matching piece, their bytes, or the token for unknown letters.
    fn unknown_ids(&self, run: &[Letter]) -> Option<Vec<u32>> {
        let piece = self.id_of(run.iter().map(|letter| letter.letter)).map(|id| vec![id]);
        piece.or_else(|| self.bytes(run)).or(Some(vec![self.unknown?]))
    }

    /// The tokens for the bytes of unknown letters, if the model has them.
    fn bytes(&self, run: &[Letter]) -> Option<Vec<u32>> {
        let text: String = run.iter().filter_map(|letter| char::from_u32(letter.letter)).collect();
        let token = |byte| self.token_to_id(&format!("<0x{byte:02X}>"));
        self.byte_fallback.then(|| text.bytes().map(token).collect())?
    }

    /// Appends the ids of a word. None if a letter is unknown and there is no token for unknown
    /// letters.
    pub(super) fn push_word(&self, word: &[Letter], ids: &mut Vec<u32>, scratch: &mut Scratch) -> Option<()> {
        self.cut(word, scratch)?;
        let mut end = word.len();
        let first = ids.len();
        for &(start, id, unknown) in &scratch.cuts {
            let run = &word[start as usize..end];
            if unknown {
                ids.extend(self.unknown_ids(run)?.into_iter().rev());
            } else {
                ids.push(id);
            }
            end = start as usize;
        }
        ids[first..].reverse();
        Some(())
    }
}

impl Model for Unigram {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        let word: Vec<Letter> = text.chars().map(|c| self.letter(c)).collect();
        let mut scratch = Scratch::default();
        let missing = || "a letter is unknown, and the model has no token for unknown letters".to_owned();
        self.cut(&word, &mut scratch).ok_or_else(missing)?;
        let mut tokens = Vec::with_capacity(scratch.cuts.len());
        let (mut at, mut rest) = (0, text);
        let mut cuts = scratch.cuts.iter().rev().peekable();
        while let Some(&(start, id, unknown)) = cuts.next() {
            let end = cuts.peek().map_or(word.len(), |next| next.0 as usize);
            let run = &word[start as usize..end];
            let bytes: usize = run.iter().filter_map(|l| char::from_u32(l.letter)).map(char::len_utf8).sum();
            let (piece, after) = rest.split_at(bytes);
            let offsets = (at, at + bytes);
            let known = if unknown { self.token_to_id(piece) } else { Some(id) };
            match (known, if known.is_none() { self.bytes(run) } else { None }) {
                (None, Some(ids)) => {
                    let name = |id| self.id_to_token(id).unwrap_or_default();
                    tokens.extend(ids.into_iter().map(|id| Token::new(id, name(id), offsets)));
                }
                (known, _) => tokens.push(Token::new(known.unwrap_or(id), piece.to_owned(), offsets)),
            }
            (at, rest) = (at + bytes, after);
        }
        Ok(tokens)
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.id_of(token.chars().map(u32::from))
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        let mut letters = Vec::new();
        let mut place = *self.node_of.get(id as usize)?;
        while place != ROOT {
            let node = self.nodes[place as usize];
            letters.extend(char::from_u32(node.letter & !LONGER));
            place = node.parent;
        }
        Some(letters.into_iter().rev().collect())
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        (0..self.node_of.len() as u32).filter_map(|id| Some((self.id_to_token(id)?, id))).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.node_of.len()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("a vocabulary is read here, not written".into())
    }

    fn get_trainer(&self) -> TrainerWrapper {
        UnigramTrainer::default().into()
    }
}
