//! A batch on the device: ids, positions, where texts begin, and attention's blocks of queries. All
//! of it is one piece of memory, which is copied once per batch.

use std::ops::Range;

use super::driver::Pointer;
use crate::batch::Texts;
use crate::models::{Pooling, PositionRule};

/// Batches of up to this many tokens and texts are recorded, because their launches take longer
/// than their computation.
const RECORDED_TOKENS: usize = 256;
const RECORDED_TEXTS: usize = 8;

/// The properties that make two passes the same work: the recording of one can be repeated for the
/// other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    rows: usize, // tokens, rounded up
    texts: usize,
    pub(super) pooling: Pooling,
}

impl Shape {
    /// The shape of a batch, or `None` if it is too large to be recorded.
    pub(super) fn of(texts: Texts<'_>, pooling: Pooling) -> Option<Self> {
        let (tokens, count) = (texts.tokens(), texts.count());
        let small = (1..=RECORDED_TOKENS).contains(&tokens) && count <= RECORDED_TEXTS;
        // Steps of up to a quarter: 16, 32, 48, 64, 96, 128, 192, 256.
        let step = (tokens.next_power_of_two() / 4).max(16);
        small.then(|| Self { rows: tokens.next_multiple_of(step), texts: count, pooling })
    }
}

/// What a model requires of a batch.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) rule: Option<PositionRule>,
    /// Number of queries per block of attention.
    pub(super) queries: usize,
}

/// The layout of a batch in memory: offsets in bytes, each a multiple of 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Rows of hidden states: the tokens and, in a recorded pass, padding that belongs to no text.
    pub(super) rows: usize,
    pub(super) texts: usize,
    pub(super) tiles: usize,
    ids: usize,
    positions: usize,
    places: usize,
    types: usize,
    starts: usize,
    unpooled: usize,
    of_tiles: usize,
    pub(super) bytes: usize,
}

/// The addresses of a batch's parts.
#[derive(Clone, Copy)]
pub(super) struct Addresses {
    pub(super) ids: Pointer,       // u32 (rows)
    pub(super) positions: Pointer, // u32 (rows): the row of the position table
    pub(super) places: Pointer,    // u32 (rows): the index in the text
    pub(super) types: Pointer,     // u8 (rows)
    pub(super) starts: Pointer,    // u32 (texts + 1)
    pub(super) unpooled: Pointer,  // u32 (texts)
    pub(super) tiles: Pointer,     // four i32 (tiles)
}

impl Layout {
    /// The layout of `texts`, or of every batch of the shape `shape`.
    pub(super) fn new(texts: Texts<'_>, shape: Option<Shape>, asked: Asked) -> Self {
        let exact = || texts.ranges().map(|text| text.len().div_ceil(asked.queries)).sum();
        let (rows, tiles) = match shape {
            // Enough for any distribution of the tokens over the texts.
            Some(shape) => (shape.rows, shape.texts + shape.rows / asked.queries),
            None => (texts.tokens(), exact()),
        };
        let count = texts.count();
        let mut end = 0;
        let mut place = |bytes: usize| {
            let at = end;
            end += bytes.next_multiple_of(16);
            at
        };
        let (ids, positions, places) = (place(4 * rows), place(4 * rows), place(4 * rows));
        let (types, starts, unpooled) = (place(rows), place(4 * (count + 1)), place(4 * count));
        let of_tiles = place(16 * tiles);
        Self { rows, texts: count, tiles, ids, positions, places, types, starts, unpooled, of_tiles, bytes: end }
    }

    pub(super) fn at(&self, start: Pointer) -> Addresses {
        let at = |offset: usize| start + offset as u64;
        Addresses {
            ids: at(self.ids),
            positions: at(self.positions),
            places: at(self.places),
            types: at(self.types),
            starts: at(self.starts),
            unpooled: at(self.unpooled),
            tiles: at(self.of_tiles),
        }
    }

    /// Writes `texts` to `out` in this layout.
    pub(super) fn write(&self, texts: Texts<'_>, asked: Asked, out: &mut [u8]) {
        out[..self.bytes].fill(0);
        let words = |out: &mut [u8], offset: usize, values: &mut dyn Iterator<Item = usize>| {
            let words = out[offset..].as_chunks_mut::<4>().0;
            words.iter_mut().zip(values).for_each(|(word, value)| *word = (value as u32).to_ne_bytes());
        };
        words(out, self.ids, &mut texts.ids().iter().map(|&id| id as usize));
        words(out, self.places, &mut texts.ranges().flat_map(|text| 0..text.len()));
        if let Some(rule) = asked.rule {
            words(out, self.positions, &mut texts.ranges().flat_map(|text| positions(&texts.ids()[text], rule)));
        }
        for token in 0..texts.tokens() {
            out[self.types + token] = texts.type_of(token);
        }
        let ends = texts.ranges().map(|text| text.end);
        words(out, self.starts, &mut std::iter::once(0).chain(ends));
        words(out, self.unpooled, &mut (0..texts.count()).map(|text| texts.unpooled(text)));
        // Long texts come first, because their blocks of queries take the longest.
        let mut ranges: Vec<Range<usize>> = texts.ranges().collect();
        ranges.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let tile = |text: Range<usize>, first| [text.start, text.len(), first, 0];
        let tiles = ranges
            .into_iter()
            .flat_map(|text| (0..text.len()).step_by(asked.queries).map(move |first| tile(text.clone(), first)));
        // The rest of the list are blocks without tokens, which attention skips.
        words(out, self.of_tiles, &mut tiles.flatten());
    }
}

/// The row of the position table for each token of a text, as [`Texts::position`] in one pass.
fn positions(ids: &[u32], rule: PositionRule) -> impl Iterator<Item = usize> + '_ {
    let mut counted = 0;
    ids.iter().enumerate().map(move |(place, &id)| match rule {
        PositionRule::Index => place,
        PositionRule::AfterPad(pad) => {
            counted += usize::from(id != pad);
            pad as usize + if id == pad { 0 } else { counted }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::PackedBatch;

    fn words(bytes: &[u8], offset: usize, count: usize) -> Vec<u32> {
        bytes[offset..].as_chunks::<4>().0.iter().take(count).map(|&b| u32::from_ne_bytes(b)).collect()
    }

    #[test]
    fn a_batch_lies_as_the_kernels_read_it() {
        let texts: [&[u32]; 3] = [&[7, 1, 9], &[1, 1, 4, 5, 6, 8, 2], &[3]];
        let batch = PackedBatch::new(texts).expect("no empty text");
        let asked = Asked { rule: Some(PositionRule::AfterPad(1)), queries: 4 };
        for shape in [None, Shape::of(batch.all(), Pooling::Cls)] {
            let layout = Layout::new(batch.all(), shape, asked);
            let mut bytes = vec![0xAA; layout.bytes];
            layout.write(batch.all(), asked, &mut bytes);
            let at = layout.at(0);
            assert_eq!(layout.rows, if shape.is_some() { 16 } else { 11 });
            assert_eq!(words(&bytes, at.ids as usize, 11), batch.ids());
            let rows: Vec<u32> = (0..11).map(|t| batch.all().position(t, PositionRule::AfterPad(1)) as u32).collect();
            assert_eq!(words(&bytes, at.positions as usize, 11), rows);
            let places: Vec<u32> = (0..11).map(|t| batch.all().index(t) as u32).collect();
            assert_eq!(words(&bytes, at.places as usize, 11), places);
            assert_eq!(words(&bytes, at.starts as usize, 4), [0, 3, 10, 11]);
            let tiles = words(&bytes, at.tiles as usize, 4 * layout.tiles);
            assert_eq!(tiles[..16], [3, 7, 0, 0, 3, 7, 4, 0, 0, 3, 0, 0, 10, 1, 0, 0]);
            assert!(tiles[16..].iter().all(|&word| word == 0), "{tiles:?}");
            assert!(words(&bytes, at.ids as usize, layout.rows)[11..].iter().all(|&id| id == 0));
        }
    }

    #[test]
    fn shapes_hold_every_batch_of_theirs() {
        for tokens in 1..=256 {
            for lengths in [vec![tokens], vec![1; tokens.min(8)], vec![tokens.div_ceil(2), tokens / 2]] {
                let texts: Vec<Vec<u32>> = lengths.iter().filter(|&&n| n > 0).map(|&n| vec![1; n]).collect();
                let batch = PackedBatch::new(&texts).expect("no empty text");
                let shape = Shape::of(batch.all(), Pooling::Mean).expect("small");
                for queries in [16, 128] {
                    let asked = Asked { rule: None, queries };
                    let (padded, exact) =
                        (Layout::new(batch.all(), Some(shape), asked), Layout::new(batch.all(), None, asked));
                    assert!(padded.rows >= exact.rows && padded.tiles >= exact.tiles, "{lengths:?}: {padded:?}");
                    assert!(padded.rows < exact.rows + 16.max(exact.rows / 2), "{lengths:?}: {padded:?}");
                }
            }
        }
        let many = PackedBatch::new([[1, 2]; 9]).expect("no empty text");
        assert!(Shape::of(many.all(), Pooling::Cls).is_none());
        let long = PackedBatch::new([vec![1; 257]]).expect("no empty text");
        assert!(Shape::of(long.all(), Pooling::Cls).is_none());
    }
}
