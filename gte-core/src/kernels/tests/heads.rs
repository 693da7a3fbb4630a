//! Attention of every table against plain loops in f64: every mask, query heads that share keys,
//! keys before the first query; and that a row does not depend on anything but what it sees.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use proptest::prelude::*;

use super::{on_every_isa, values, words_of};
use crate::kernels::attention::{Head, LowPrecisionHead, MAX_ERROR, MAX_ERROR_BF16, Mask, Scratch, scratch_len};
use crate::kernels::low_precision::{HEADER, Output, Rows, to_bf16};
use crate::kernels::{Isa, Kernels};

/// Queries, keys and values of a whole text, one key head.
#[derive(Clone)]
struct Text {
    d: usize,
    group: usize,
    mask: Mask,
    q: Array2<f32>, // (tokens × group·d)
    k: Array2<f32>, // (tokens × d)
    v: Array2<f32>, // (tokens × d)
}

impl Text {
    /// Seeded values in −2..2.
    fn new(tokens: usize, d: usize, group: usize, mask: Mask, seed: u64) -> Self {
        let matrix =
            |seed, columns| Array2::from_shape_vec((tokens, columns), values(seed, tokens * columns, 2.0)).unwrap();
        let (q, k, v) = (matrix(seed, group * d), matrix(seed ^ 1, d), matrix(seed ^ 2, d));
        Self { d, group, mask, q, k, v }
    }

    fn tokens(&self) -> usize {
        self.k.nrows()
    }

    /// The first tokens alone.
    fn first(&self, tokens: usize) -> Self {
        let cut = |m: &Array2<f32>| m.slice(s![..tokens, ..]).to_owned();
        Self { q: cut(&self.q), k: cut(&self.k), v: cut(&self.v), ..*self }
    }

    /// With values as bf16 has them.
    fn rounded(&self) -> Self {
        let round = |m: &Array2<f32>| m.mapv(|v| f32::from_bits(to_bf16(v)));
        Self { q: round(&self.q), k: round(&self.k), v: round(&self.v), ..*self }
    }

    /// Head `head` of row `query` in f64, as it is defined.
    fn exact(&self, query: usize, head: usize) -> Vec<f64> {
        let sees = |key: usize| match self.mask {
            Mask::Full => true,
            Mask::Causal => key <= query,
            Mask::Window(reach) => key.abs_diff(query) <= reach,
        };
        let q = self.q.slice(s![query, head * self.d..(head + 1) * self.d]);
        let keys: Vec<usize> = (0..self.tokens()).filter(|&key| sees(key)).collect();
        let score = |&key: &usize| {
            let products = q.iter().zip(self.k.row(key)).map(|(&a, &b)| f64::from(a) * f64::from(b));
            products.sum::<f64>() / (self.d as f64).sqrt()
        };
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut out = vec![0.0; self.d];
        for (&key, weight) in keys.iter().zip(weights) {
            let row = self.v.row(key);
            out.iter_mut().zip(row).for_each(|(out, &v)| *out += weight / sum * f64::from(v));
        }
        out
    }

    /// The rows from `before` on by the kernel in f32, with the rows of its operands at a distance
    /// of their own.
    fn in_f32(&self, kernels: &Kernels, before: usize) -> Array2<f32> {
        let d = self.d;
        let spaced = |m: &Array2<f32>| {
            let mut wide = Array2::from_elem((m.nrows(), m.ncols() + 5), f32::NAN);
            wide.slice_mut(s![.., 2..2 + m.ncols()]).assign(m);
            wide
        };
        fn middle(m: &Array2<f32>) -> ArrayView2<'_, f32> {
            m.slice(s![.., 2..m.ncols() - 3])
        }
        let (q, k, v) = (spaced(&self.q), spaced(&self.k), spaced(&self.v));
        let (k_before, k) = middle(&k).split_at(Axis(0), before);
        let (v_before, v) = middle(&v).split_at(Axis(0), before);
        let (_, q) = middle(&q).split_at(Axis(0), before);
        let mut out = Array2::from_elem((q.nrows(), self.group * d + 7), f32::NAN);
        let columns = s![.., 3..3 + self.group * d];
        let mut scratch = vec![f32::NAN; scratch_len(self.tokens(), d, kernels.nr)];
        let head = Head {
            q,
            k,
            v,
            before: (before > 0).then_some((k_before, v_before)),
            out: out.slice_mut(columns),
            mask: self.mask,
        };
        (kernels.attention)(head, &mut scratch);
        out.slice(columns).to_owned()
    }

    /// The rows from `before` on by the kernel in bf16; what is stored in bf16 must be the same,
    /// rounded.
    fn in_bf16(&self, kernels: &Kernels, before: usize) -> Array2<f32> {
        let (d, group) = (self.d, self.group);
        let table = kernels.bf16_attention_of(d);
        // Query heads, key and value side by side in one row of words, as a product leaves them.
        let rows: Vec<u32> = (0..self.tokens())
            .flat_map(|i| {
                let parts = [self.q.row(i), self.k.row(i), self.v.row(i)];
                let row = ndarray::concatenate(Axis(0), &parts).unwrap();
                [vec![0; HEADER], words_of(&row.to_vec(), table.k_group), vec![u32::MAX; 3]].concat()
            })
            .collect();
        let stride = rows.len() / self.tokens();
        let part = |row: usize, column: usize| Rows { data: &rows[row * stride + column / table.k_group..], stride };
        let mut scratch = Scratch::default();
        // What a longer text left behind must not matter.
        let mut other = Array2::zeros((140, 80));
        let garbage = vec![to_bf16(f32::MAX); 140 * 200];
        let of_garbage = Rows { data: &garbage, stride: 200 };
        (kernels.bf16_attention_of(80).compute)(
            LowPrecisionHead {
                tokens: 140,
                d: 80,
                group: 1,
                q: of_garbage,
                k: of_garbage,
                v: of_garbage,
                before: None,
                out: Output::F32(other.view_mut()),
                mask: Mask::Full,
            },
            &mut scratch,
        );
        let mut attend = |out: Output<'_>| {
            let earlier = (before, part(0, group * d), part(0, (group + 1) * d));
            let head = LowPrecisionHead {
                tokens: self.tokens() - before,
                d,
                group,
                q: part(before, 0),
                k: part(before, group * d),
                v: part(before, (group + 1) * d),
                before: (before > 0).then_some(earlier),
                out,
                mask: self.mask,
            };
            (table.compute)(head, &mut scratch);
        };
        let tokens = self.tokens() - before;
        let mut out = Array2::from_elem((tokens, group * d), f32::NAN);
        attend(Output::F32(out.view_mut()));
        for per_word in [1, 2] {
            if group > 1 && !d.is_multiple_of(per_word) {
                continue; // a head would begin within a word
            }
            let columns = group * d;
            let mut stored = Array2::from_elem((tokens, columns.div_ceil(per_word)), 0xDEAD_BEEF);
            attend(Output::Bf16 { words: stored.view_mut(), columns, k_group: per_word });
            for (row, stored) in out.rows().into_iter().zip(stored.rows()) {
                let expected = words_of(row.as_slice().unwrap(), per_word);
                assert_eq!(stored.to_vec(), expected, "{} by {per_word}", kernels.isa);
            }
        }
        out
    }

    /// Holds `out`, the rows from `before` on, to the definition: every `step`-th row.
    fn check(&self, isa: Isa, out: ArrayView2<'_, f32>, before: usize, step: usize, allowed: f64) {
        assert_eq!(out.dim(), (self.tokens() - before, self.group * self.d));
        let (d, last) = (self.d, out.nrows() - 1);
        for row in (0..out.nrows()).step_by(step).chain([last]) {
            for head in 0..self.group {
                for (c, expected) in self.exact(before + row, head).into_iter().enumerate() {
                    let value = f64::from(out[[row, head * d + c]]);
                    assert!(
                        (value - expected).abs() <= allowed,
                        "{isa}, {:?}, {} tokens, {before} before, d {d}: [{row}, {head}·d + {c}] is \
                         {value} for {expected}",
                        self.mask,
                        self.tokens()
                    );
                }
            }
        }
    }
}

fn masks() -> impl Strategy<Value = Mask> {
    prop_oneof![Just(Mask::Full), Just(Mask::Causal), (0usize..200).prop_map(Mask::Window)]
}

/// Mostly short, some of more than one and two blocks of keys.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 1usize..130, 1 => 480usize..560, 1 => 1000usize..1100]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn attention_is_softmax_of_scores_times_values(
        tokens in lengths(), mask in masks(), group in 1usize..4, seed: u64, share in 0f64..1.0,
        d in prop::sample::select(vec![8usize, 10, 16, 24, 32, 64, 80, 96, 128, 256]),
    ) {
        let text = Text::new(tokens, d, group, mask, seed);
        let before = if mask == Mask::Causal { (share * tokens as f64) as usize } else { 0 };
        on_every_isa(|kernels| {
            let out = text.in_f32(kernels, before);
            text.check(kernels.isa, out.view(), before, 29, MAX_ERROR);
        });
    }

    #[test]
    fn attention_in_bf16_is_that_of_the_rounded_inputs(
        tokens in lengths(), mask in masks(), group in 1usize..4, seed: u64, share in 0f64..1.0,
        d in prop::sample::select(vec![7usize, 8, 10, 16, 24, 32, 50, 64, 80, 96, 128, 256]),
    ) {
        // Heads of an odd width stand alone: the others would begin within a word.
        let group = if d % 2 == 1 { 1 } else { group };
        let text = Text::new(tokens, d, group, mask, seed).rounded();
        let before = if mask == Mask::Causal { (share * tokens as f64) as usize } else { 0 };
        on_every_isa(|kernels| {
            let out = text.in_bf16(kernels, before);
            text.check(kernels.isa, out.view(), before, 29, MAX_ERROR_BF16);
        });
    }

    #[test]
    fn a_causal_row_depends_on_what_it_sees_alone(
        tokens in prop_oneof![1 => 2usize..130, 1 => 500usize..700, 1 => 1020usize..1100],
        group in 1usize..4, seed: u64, at in 0f64..1.0,
        d in prop::sample::select(vec![10usize, 24, 32, 64, 128]),
    ) {
        let text = Text::new(tokens, d, group, Mask::Causal, seed).rounded();
        let cut = ((at * tokens as f64) as usize).clamp(1, tokens - 1);
        on_every_isa(|kernels| {
            for run in [Text::in_f32, Text::in_bf16] {
                let whole = run(&text, kernels, 0);
                let behind = s![cut.., ..];
                assert_eq!(run(&text, kernels, cut), whole.slice(behind), "{}: {cut} before", kernels.isa);
                let shorter = run(&text.first(cut), kernels, 0);
                assert_eq!(shorter, whole.slice(s![..cut, ..]), "{}: first {cut}", kernels.isa);
            }
        });
    }
}

#[test]
fn attention_to_two_thousand_keys_is_as_exact() {
    for (mask, before) in
        [(Mask::Full, 0), (Mask::Causal, 0), (Mask::Causal, 777), (Mask::Window(64), 0), (Mask::Window(600), 0)]
    {
        let text = Text::new(2000, 64, 1, mask, 5);
        let rounded = text.rounded();
        on_every_isa(|kernels| {
            text.check(kernels.isa, text.in_f32(kernels, before).view(), before, 61, MAX_ERROR);
            let out = rounded.in_bf16(kernels, before);
            rounded.check(kernels.isa, out.view(), before, 61, MAX_ERROR_BF16);
        });
    }
}

/// The largest score comes last: every block of keys makes all sums before it next to nothing.
#[test]
fn a_maximum_that_grows_from_block_to_block_leaves_no_nan() {
    let mut text = Text::new(1600, 16, 1, Mask::Full, 6);
    for (i, mut row) in text.k.rows_mut().into_iter().enumerate() {
        row.fill(i as f32 / 20.0);
    }
    text.q.fill(3.0);
    on_every_isa(|kernels| {
        text.check(kernels.isa, text.in_f32(kernels, 0).view(), 0, 97, 1e-3);
        let mut falling = text.clone();
        falling.q.fill(-3.0);
        falling.check(kernels.isa, falling.in_f32(kernels, 0).view(), 0, 97, 1e-3);
    });
}

/// What stands outside of what a query sees is never read into its sums.
#[test]
fn a_window_of_a_long_text_is_that_of_its_neighbourhood() {
    let text = Text::new(1400, 32, 2, Mask::Window(70), 7);
    let mut other = text.clone();
    let far: fn(&mut Array2<f32>) -> ArrayViewMut2<'_, f32> = |m| m.slice_mut(s![..900, ..]);
    far(&mut other.k).fill(1e3);
    far(&mut other.v).fill(-1e3);
    on_every_isa(|kernels| {
        let (a, b) = (text.in_f32(kernels, 0), other.in_f32(kernels, 0));
        let unmoved = s![970.., ..];
        assert_eq!(a.slice(unmoved), b.slice(unmoved), "{}", kernels.isa);
        assert_ne!(a.row(969), b.row(969), "{}: its last key has changed", kernels.isa);
    });
}

#[test]
#[should_panic(expected = "only causal texts have keys before them")]
fn keys_before_a_text_that_is_not_causal_are_refused() {
    let text = Text::new(20, 16, 1, Mask::Full, 8);
    text.in_f32(Kernels::best(), 3);
}

#[test]
fn scratch_does_not_grow_with_the_square_of_the_length() {
    on_every_isa(|kernels| {
        let len = |keys| scratch_len(keys, 64, kernels.nr);
        let a_key = 2 * 64 + 1;
        assert!(len(32_768) - len(8192) <= (32_768 - 8192) * a_key, "{}", kernels.isa);
        assert!(len(8192) * 4 < 8 << 20, "{}: {} values for 8,192 tokens", kernels.isa, len(8192));
    });
}
