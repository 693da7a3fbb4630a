//! `trait Lanes`: the vector operations that the kernels are written in.
//!
//! A type that implements it is a proof token: only `detect()` creates it, after it has found the
//! instructions on this CPU, so kernels over `L: Lanes` are safe code. Tails shorter than a vector
//! go through a small buffer on the stack.
//!
//! A sum over a row depends on the number of lanes: with eight, a lane adds every eighth value. So
//! sums have sixteen lanes on every instruction set ([`Sums`]), and are the same bit for bit.

/// The widest vector of any instruction set here, in f32 lanes.
pub(crate) const MAX_WIDTH: usize = 16;

/// 1.5 · 2²³: a sum with it is rounded to an integer (to nearest, ties to even), which then stands
/// in its lowest bits.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// Vectors of f32 in one instruction set.
pub(crate) trait Lanes: Copy {
    /// A vector of `WIDTH` f32 values.
    type V: Copy;
    /// Lanes in a vector.
    const WIDTH: usize;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// The first `WIDTH` values of `s`, which must have as many.
    fn load(self, s: &[f32]) -> Self::V;
    /// Writes the first `WIDTH` values of `s`, which must have as many.
    fn store(self, s: &mut [f32], v: Self::V);
    /// a + b
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// a − b
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// a ÷ b
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c, rounded once
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger of each pair.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of each pair.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · 2ⁿ for a normal result; n + [`ROUND`] is given, in whose lowest bits n stands.
    fn scale(self, a: Self::V, n: Self::V) -> Self::V;
    /// Sum of the lanes: the upper half is added to the lower until one lane is left.
    fn reduce_add(self, a: Self::V) -> f32;
    /// Largest lane.
    fn reduce_max(self, a: Self::V) -> f32;

    /// Prefetches the cache line that lies `distance` values behind the first of `values`, because
    /// it will be read soon.
    #[inline(always)]
    fn prefetch(self, _values: &[f32], _distance: usize) {}

    /// Up to `WIDTH` values of `s`, lanes behind them `fill`.
    #[inline(always)]
    fn load_up_to(self, s: &[f32], fill: f32) -> Self::V {
        if s.len() >= Self::WIDTH {
            return self.load(s);
        }
        let mut buffer = [fill; MAX_WIDTH];
        buffer[..s.len()].copy_from_slice(s);
        self.load(&buffer)
    }

    /// Writes up to `WIDTH` values of `s`, from the first lane on.
    #[inline(always)]
    fn store_up_to(self, s: &mut [f32], v: Self::V) {
        if s.len() >= Self::WIDTH {
            return self.store(s, v);
        }
        let mut buffer = [0.0; MAX_WIDTH];
        self.store(&mut buffer, v);
        s.copy_from_slice(&buffer[..s.len()]);
    }

    /// `f` on every value of `row`, in place. Lanes behind the end see zero and are thrown away.
    ///
    /// Here and below `f` is called in one place only: with a second one it would not be inlined,
    /// and a function on its own lacks the instructions that its caller was compiled for.
    #[inline(always)]
    fn map(self, row: &mut [f32], f: impl Fn(Self::V) -> Self::V) {
        for chunk in row.chunks_mut(Self::WIDTH) {
            let v = f(self.load_up_to(chunk, 0.0));
            self.store_up_to(chunk, v);
        }
    }

    /// x ← f(x, y), element by element over the shorter length.
    #[inline(always)]
    fn zip(self, x: &mut [f32], y: &[f32], mut f: impl FnMut(Self::V, Self::V) -> Self::V) {
        for (x, y) in x.chunks_mut(Self::WIDTH).zip(y.chunks(Self::WIDTH)) {
            let v = f(self.load_up_to(x, 0.0), self.load_up_to(y, 0.0));
            self.store_up_to(x, v);
        }
    }

    /// x ← f(x, y, z), element by element over the shortest length.
    #[inline(always)]
    fn zip_with(self, x: &mut [f32], y: &[f32], z: &[f32], f: impl Fn(Self::V, Self::V, Self::V) -> Self::V) {
        for ((x, y), z) in x.chunks_mut(Self::WIDTH).zip(y.chunks(Self::WIDTH)).zip(z.chunks(Self::WIDTH)) {
            let v = f(self.load_up_to(x, 0.0), self.load_up_to(y, 0.0), self.load_up_to(z, 0.0));
            self.store_up_to(x, v);
        }
    }

    /// Folds `row` into one vector with `f`. Lanes behind the end see `fill`.
    #[inline(always)]
    fn fold(self, row: &[f32], init: Self::V, fill: f32, f: impl Fn(Self::V, Self::V) -> Self::V) -> Self::V {
        let mut acc = init;
        for chunk in row.chunks(Self::WIDTH) {
            acc = f(acc, self.load_up_to(chunk, fill));
        }
        acc
    }
}

/// Vectors of sixteen lanes, in which kernels sum over a row. (The plain twin, which specifies what
/// is summed and not in which order, has one.)
pub(crate) trait Sums: Lanes {}

/// `N` vectors of `L` as one of sixteen lanes.
#[derive(Clone, Copy)]
pub(crate) struct Sixteen<L, const N: usize>(pub(crate) L);

impl<L: Lanes, const N: usize> Sums for Sixteen<L, N> {}

/// A method of each of the vectors.
macro_rules! each {
    ($($name:ident($($argument:ident),*))*) => {$(
        #[inline(always)]
        fn $name(self, a: Self::V, $($argument: Self::V),*) -> Self::V {
            let mut each = a;
            for (i, one) in each.iter_mut().enumerate() {
                *one = self.0.$name(*one, $($argument[i]),*);
            }
            each
        }
    )*};
}

impl<L: Lanes, const N: usize> Lanes for Sixteen<L, N> {
    type V = [L::V; N];
    const WIDTH: usize = {
        assert!(N * L::WIDTH == 16);
        16
    };

    each! { add(b) sub(b) mul(b) div(b) mul_add(b, c) max(b) min(b) scale(b) }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [self.0.splat(x); N]
    }
    #[inline(always)]
    fn load(self, s: &[f32]) -> Self::V {
        let s = &s[..Self::WIDTH];
        let mut each = [self.0.splat(0.0); N];
        for (i, one) in each.iter_mut().enumerate() {
            *one = self.0.load(&s[i * L::WIDTH..]);
        }
        each
    }
    #[inline(always)]
    fn store(self, s: &mut [f32], v: Self::V) {
        let s = &mut s[..Self::WIDTH];
        for (i, one) in v.into_iter().enumerate() {
            self.0.store(&mut s[i * L::WIDTH..], one);
        }
    }
    #[inline(always)]
    fn reduce_add(self, mut a: Self::V) -> f32 {
        let mut count = N;
        while count > 1 {
            count /= 2;
            for i in 0..count {
                a[i] = self.0.add(a[i], a[i + count]);
            }
        }
        self.0.reduce_add(a[0])
    }
    #[inline(always)]
    fn reduce_max(self, a: Self::V) -> f32 {
        let mut max = a[0];
        for &one in &a[1..] {
            max = self.0.max(max, one);
        }
        self.0.reduce_max(max)
    }
    #[inline(always)]
    fn prefetch(self, values: &[f32], distance: usize) {
        self.0.prefetch(values, distance);
    }
}

/// eˣ for x ≤ 0, and a little above. Maximum relative error 1.5e-7 against f64 on −87.3 ≤ x; below,
/// the smallest normal number instead of zero.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, and a polynomial in r: a minimax fit (Remez) of the relative
/// error, its first two coefficients one.
#[inline(always)]
pub(crate) fn exp<L: Lanes>(l: L, x: L::V) -> L::V {
    let x = l.max(x, l.splat(-87.3));
    let shifted = l.mul_add(x, l.splat(std::f32::consts::LOG2_E), l.splat(ROUND));
    let n = l.sub(shifted, l.splat(ROUND));
    // ln 2 in two parts: n · 0.693359375 is exact.
    let r = l.mul_add(n, l.splat(-0.693_359_4), x);
    let r = l.mul_add(n, l.splat(2.121_944_4e-4), r);
    let mut p = l.splat(1.383_679_5e-3);
    for c in [8.374_857e-3, 4.166_823e-2, 1.666_642e-1, 4.999_999e-1, 1.0, 1.0] {
        p = l.mul_add(p, r, l.splat(c));
    }
    l.scale(p, shifted)
}
