//! Exact GELU, x/2 · (1 + erf(x/√2)) (Hendrycks, Gimpel 2016, <https://arxiv.org/abs/1606.08415>); never the tanh approximation.

use super::lanes::Lanes;

/// Maximum error against f64, as a multiple of max(1, |x|).
#[cfg(test)]
pub(crate) const MAX_ERROR: f32 = 3e-7;

/// GELU of every value, in place.
#[inline(always)]
pub(crate) fn gelu<L: Lanes>(l: L, row: &mut [f32]) {
    // No closure: several tables of one instruction set call this, and a closure with several callers stays a call, to a function
    // without their instructions.
    let mut whole = row.chunks_exact_mut(L::WIDTH);
    for chunk in &mut whole {
        let x = one(l, l.load(chunk));
        l.store(chunk, x);
    }
    let rest = whole.into_remainder();
    if !rest.is_empty() {
        let x = one(l, l.load_up_to(rest, 0.0));
        l.store_up_to(rest, x);
    }
}

/// GELU of a vector.
#[inline(always)]
fn one<L: Lanes>(l: L, x: L::V) -> L::V {
    let e = erf(l, l.mul(x, l.splat(std::f32::consts::FRAC_1_SQRT_2)));
    let half = l.mul(x, l.splat(0.5));
    l.mul_add(half, e, half)
}

/// Error function. Maximum error 4e-7 against f64.
///
/// x · P(x²) / Q(x²) on −4 ≤ x ≤ 4, a minimax fit with the coefficients that Eigen and XLA use (`erf` in Eigen's
/// SpecialFunctionsImpl.h); erf is ±1 to within f32 beyond.
#[inline(always)]
fn erf<L: Lanes>(l: L, x: L::V) -> L::V {
    const P: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024_1e-6,
        -5.692_506_3e-5,
        -7.349_906_5e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const Q: [f32; 5] = [-1.456_607_2e-5, -2.133_740_5e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2];
    let x = l.max(l.min(x, l.splat(4.0)), l.splat(-4.0));
    let x2 = l.mul(x, x);
    l.div(l.mul(x, polynomial(l, x2, &P)), polynomial(l, x2, &Q))
}

/// Σ c[n−i] · xⁱ, by Horner.
#[inline(always)]
fn polynomial<L: Lanes, const N: usize>(l: L, x: L::V, c: &[f32; N]) -> L::V {
    let mut p = l.splat(c[0]);
    for &c in &c[1..] {
        p = l.mul_add(p, x, l.splat(c));
    }
    p
}
