//! What a linear layer's sums become: activations, alone or as the gate of another row.
//!
//! GELU is exact, x/2 · (1 + erf(x/√2)) (Hendrycks, Gimpel 2016,
//! <https://arxiv.org/abs/1606.08415>). Its approximation by tanh is an activation of its own, for
//! models that were trained with it. In low precision, where the result is rounded to 8 or 16 bits
//! next, a shorter polynomial is exact enough.

use super::lanes::{Lanes, exp};

/// Maximum error of every activation against f64, as a multiple of max(1, |x|).
#[cfg(test)]
pub(crate) const MAX_ERROR: f32 = 3e-7;

/// Maximum error of GELU in [`activate_roughly`] against f64, as a multiple of max(1, |x|): less
/// than a hundredth of the error of rounding to bf16.
#[cfg(test)]
pub(crate) const MAX_ERROR_ROUGH: f32 = 8e-6;

/// Maximum error of [`gate`] against f64, as a multiple of max(1, |a|) · |b|.
#[cfg(test)]
pub(crate) const MAX_ERROR_GATE: f32 = 4e-7;

/// What is done to the sums of a product before they are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// Nothing.
    None,
    /// Exact GELU.
    Gelu,
    /// GELU by tanh: x/2 · (1 + tanh(√(2/π) · (x + 0.044715 · x³))).
    GeluTanh,
    /// x · sigmoid(x).
    Silu,
    /// max(x, 0).
    Relu,
}

// A loop for each activation, for the choice to be made once. No closures: several tables of one
// instruction set call this, and a closure with several callers stays a call, to a function without
// their instructions.
macro_rules! each {
    ($l:ident, $row:ident, $one:ident) => {{
        let mut whole = $row.chunks_exact_mut(L::WIDTH);
        for chunk in &mut whole {
            let x = $one($l, $l.load(chunk));
            $l.store(chunk, x);
        }
        let rest = whole.into_remainder();
        if !rest.is_empty() {
            let x = $one($l, $l.load_up_to(rest, 0.0));
            $l.store_up_to(rest, x);
        }
    }};
}

/// `activation` of every value, in place.
#[inline(always)]
pub(crate) fn activate<L: Lanes>(l: L, activation: Activation, row: &mut [f32]) {
    match activation {
        Activation::None => {}
        Activation::Gelu => each!(l, row, gelu),
        Activation::GeluTanh => each!(l, row, gelu_tanh),
        Activation::Silu => each!(l, row, silu),
        Activation::Relu => each!(l, row, relu),
    }
}

/// [`activate`] for products in low precision, whose GELU is [`rough_gelu`].
#[inline(always)]
pub(crate) fn activate_roughly<L: Lanes>(l: L, activation: Activation, row: &mut [f32]) {
    match activation {
        Activation::Gelu => each!(l, row, rough_gelu),
        other => activate(l, other, row),
    }
}

/// a ← activation(a) · b, over rows of one length.
#[inline(always)]
pub(crate) fn gate<L: Lanes>(l: L, a: &mut [f32], b: &[f32], activation: Activation) {
    assert_eq!(a.len(), b.len(), "a gate has as many values as what passes it");
    match activation {
        Activation::None => l.zip(a, b, |a, b| l.mul(a, b)),
        Activation::Gelu => l.zip(a, b, |a, b| l.mul(gelu(l, a), b)),
        Activation::GeluTanh => l.zip(a, b, |a, b| l.mul(gelu_tanh(l, a), b)),
        Activation::Silu => l.zip(a, b, |a, b| l.mul(silu(l, a), b)),
        Activation::Relu => l.zip(a, b, |a, b| l.mul(relu(l, a), b)),
    }
}

#[inline(always)]
fn gelu<L: Lanes>(l: L, x: L::V) -> L::V {
    let e = erf(l, l.mul(x, l.splat(std::f32::consts::FRAC_1_SQRT_2)));
    let half = l.mul(x, l.splat(0.5));
    l.mul_add(half, e, half)
}

/// GELU without a division: x · (1/2 + t · P(t² − 9.75)) with t = x, but at most 4.4 in magnitude.
/// P is a minimax fit of x · Φ(x), in absolute terms. Its variable is shifted to the middle of the
/// range, so that no term is large and rounding costs little.
#[inline(always)]
pub(crate) fn rough_gelu<L: Lanes>(l: L, x: L::V) -> L::V {
    const P: [f32; 10] = [
        -1.656_555_9e-12,
        4.808_197_6e-11,
        -7.010_75e-10,
        1.101_190_3e-8,
        -1.963_562_4e-7,
        3.072_799_7e-6,
        -4.310_406_4e-5,
        5.792_562e-4,
        -8.040_284e-3,
        1.598_412_7e-1,
    ];
    let t = l.max(l.min(x, l.splat(4.4)), l.splat(-4.4));
    let p = polynomial(l, l.mul_add(t, t, l.splat(-9.75)), &P);
    l.mul(x, l.mul_add(t, p, l.splat(0.5)))
}

/// (1 + tanh(u)) / 2 is sigmoid(2u).
#[inline(always)]
fn gelu_tanh<L: Lanes>(l: L, x: L::V) -> L::V {
    // −2 · √(2/π), and that times 0.044715.
    let (first, third) = (l.splat(-1.595_769_2), l.splat(-0.071_354_82));
    let x2 = l.mul(x, x);
    divided(l, x, l.mul(x, l.mul_add(x2, third, first)))
}

#[inline(always)]
fn silu<L: Lanes>(l: L, x: L::V) -> L::V {
    divided(l, x, l.sub(l.splat(0.0), x))
}

#[inline(always)]
fn relu<L: Lanes>(l: L, x: L::V) -> L::V {
    l.max(x, l.splat(0.0))
}

/// x / (1 + eʸ). Beyond 87, where eʸ would leave f32, the quotient is next to nothing already.
#[inline(always)]
fn divided<L: Lanes>(l: L, x: L::V, y: L::V) -> L::V {
    l.div(x, l.add(l.splat(1.0), exp(l, l.min(y, l.splat(87.0)))))
}

/// Error function. Maximum error 4e-7 against f64.
///
/// x · P(x²) / Q(x²) on −4 ≤ x ≤ 4, a minimax fit with the coefficients that Eigen and XLA use
/// (`erf` in Eigen's SpecialFunctionsImpl.h); erf is ±1 to within f32 beyond.
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
