//! Arithmetic instructions by name, as functions of up to three values.

use std::cmp::Ordering::{self, Equal, Greater, Less};

use half::{bf16, f16};

/// A function from the bits of up to three values to the bits of one. Bits beyond the width of a
/// value are ignored.
pub type Function = fn(u64, u64, u64) -> u64;

/// Defines functions of values of one type, by name.
macro_rules! table {
    ($name:ident, $type:ty, $from:expr, $to:expr, { $($op:literal => $function:expr,)* }) => {
        fn $name(op: &str) -> Option<Function> {
            Some(match op {
                $($op => |a, b, c| {
                    let function: fn($type, $type, $type) -> $type = $function;
                    $to(function($from(a), $from(b), $from(c)))
                },)*
                _ => return None,
            })
        }
    };
}

macro_rules! integers {
    ($name:ident, $type:ty) => {
        table!($name, $type, |x: u64| x as $type, |x: $type| x as u64, {
            "add" => |a, b, _| a.wrapping_add(b),
            "sub" => |a, b, _| a.wrapping_sub(b),
            "mul" => |a, b, _| a.wrapping_mul(b),
            "mad" => |a, b, c| a.wrapping_mul(b).wrapping_add(c),
            // The result of a division by 0 is undefined.
            "div" => |a, b, _| a.checked_div(b).unwrap_or(!0),
            "rem" => |a, b, _| a.checked_rem(b).unwrap_or(!0),
            "min" => |a, b, _| a.min(b),
            "max" => |a, b, _| a.max(b),
            "neg" => |a, _, _| (0 as $type).wrapping_sub(a),
            "and" => |a, b, _| a & b,
            "or" => |a, b, _| a | b,
            "xor" => |a, b, _| a ^ b,
            "not" => |a, _, _| !a,
            "mov" => |a, _, _| a,
            "clz" => |a, _, _| a.leading_zeros() as $type,
        });
    };
}

integers!(unsigned_16, u16);
integers!(unsigned_32, u32);
integers!(unsigned_64, u64);
integers!(signed_16, i16);
integers!(signed_32, i32);
integers!(signed_64, i64);

table!(real_32, f32, |x: u64| f32::from_bits(x as u32), |x: f32| u64::from(x.to_bits()), {
    "add" => |a, b, _| a + b,
    "sub" => |a, b, _| a - b,
    "mul" => |a, b, _| a * b,
    "div" => |a, b, _| a / b,
    "fma" => f32::mul_add,
    "fma.rm" => |a, b, c| towards(f64::from(a).mul_add(f64::from(b), f64::from(c)), f32::next_down),
    "add.rz" => |a, b, _| {
        let sum = f64::from(a) + f64::from(b);
        towards(sum, if sum < 0.0 { f32::next_up } else { f32::next_down })
    },
    "min" => |a, b, _| a.min(b),
    "max" => |a, b, _| a.max(b),
    "min.NaN" => |a, b, _| if a.is_nan() || b.is_nan() { f32::NAN } else { a.min(b) },
    "max.NaN" => |a, b, _| if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) },
    "neg" => |a, _, _| -a,
    "abs" => |a, _, _| a.abs(),
    "copysign" => |sign, a, _| a.copysign(sign),
    "sqrt" => |a, _, _| a.sqrt(),
    "rsqrt" => |a, _, _| f64::from(a).sqrt().recip() as f32,
    "rcp" => |a, _, _| a.recip(),
    "ex2" => |a, _, _| f64::from(a).exp2() as f32,
    "lg2" => |a, _, _| f64::from(a).log2() as f32,
    "sin" => |a, _, _| f64::from(a).sin() as f32,
    "cos" => |a, _, _| f64::from(a).cos() as f32,
    "tanh" => |a, _, _| f64::from(a).tanh() as f32,
    "mov" => |a, _, _| a,
});

table!(real_64, f64, f64::from_bits, f64::to_bits, {
    "add" => |a, b, _| a + b,
    "sub" => |a, b, _| a - b,
    "mul" => |a, b, _| a * b,
    "div" => |a, b, _| a / b,
    "fma" => f64::mul_add,
    "min" => |a, b, _| a.min(b),
    "max" => |a, b, _| a.max(b),
    "neg" => |a, _, _| -a,
    "abs" => |a, _, _| a.abs(),
    "copysign" => |sign, a, _| a.copysign(sign),
    "sqrt" => |a, _, _| a.sqrt(),
    "rcp" => |a, _, _| a.recip(),
    "mov" => |a, _, _| a,
});

/// Defines functions of 16-bit floats, computed in higher precision and rounded once.
macro_rules! halves {
    ($name:ident, $type:ty) => {
        table!($name, f64, |x: u64| <$type>::from_bits(x as u16).to_f64(), |x: f64| u64::from(<$type>::from_f64(x).to_bits()), {
            "add" => |a, b, _| a + b,
            "sub" => |a, b, _| a - b,
            "mul" => |a, b, _| a * b,
            "fma" => f64::mul_add,
            "min.NaN" => |a, b, _| if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) },
            "max.NaN" => |a, b, _| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) },
            "neg" => |a, _, _| -a,
            "abs" => |a, _, _| a.abs(),
        });
    };
}

halves!(half, f16);
halves!(brain, bf16);

/// Defines functions of pairs of 16-bit floats in a 32-bit register.
macro_rules! pairs {
    ($name:ident, $type:ty) => {
        table!($name, [f64; 2],
            |x: u64| [x, x >> 16].map(|x| <$type>::from_bits(x as u16).to_f64()),
            |x: [f64; 2]| {
                let [low, high] = x.map(|x| u64::from(<$type>::from_f64(x).to_bits()));
                high << 16 | low
            }, {
            "add" => |a, b, _| [a[0] + b[0], a[1] + b[1]],
            "sub" => |a, b, _| [a[0] - b[0], a[1] - b[1]],
            "mul" => |a, b, _| [a[0] * b[0], a[1] * b[1]],
        });
    };
}

pairs!(half_pair, f16);
pairs!(brain_pair, bf16);

/// Converts to `f32`, rounded in the direction of `step`.
fn towards(exact: f64, step: fn(f32) -> f32) -> f32 {
    let nearest = exact as f32;
    let is_down = step(1.0) < 1.0;
    let is_past = if is_down {
        f64::from(nearest) > exact
    } else {
        f64::from(nearest) < exact
    };
    if is_past { step(nearest) } else { nearest }
}

/// Returns functions that exist for some types only.
fn other(name: &str) -> Option<Function> {
    Some(match name {
        // The most frequent conversions, as a fast path.
        "cvt.u64.u32" | "cvt.u32.u64" | "cvt.u32.u32" => |a, _, _| a & 0xffff_ffff,
        "cvt.u16.u32" | "cvt.u32.u16" => |a, _, _| a & 0xffff,
        "mov.pred" => |a, _, _| a,
        "and.pred" => |a, b, _| a & b,
        "or.pred" => |a, b, _| a | b,
        "xor.pred" => |a, b, _| a ^ b,
        "not.pred" => |a, _, _| a ^ 1,
        // The shift count has 32 bits, and may exceed the width of the value.
        "shl.b16" => |a, b, _| u64::from((a as u16).checked_shl(b as u32).unwrap_or(0)),
        "shl.b32" => |a, b, _| u64::from((a as u32).checked_shl(b as u32).unwrap_or(0)),
        "shl.b64" => |a, b, _| a.checked_shl(b as u32).unwrap_or(0),
        "shr.u16" | "shr.b16" => |a, b, _| u64::from((a as u16).checked_shr(b as u32).unwrap_or(0)),
        "shr.u32" | "shr.b32" => |a, b, _| u64::from((a as u32).checked_shr(b as u32).unwrap_or(0)),
        "shr.u64" | "shr.b64" => |a, b, _| a.checked_shr(b as u32).unwrap_or(0),
        "shr.s32" => |a, b, _| (a as i32 >> (b as u32).min(31)) as u64,
        "shr.s64" => |a, b, _| (a as i64 >> (b as u32).min(63)) as u64,
        "mul.wide.u16" => |a, b, _| (a & 0xffff) * (b & 0xffff),
        "mul.wide.u32" => |a, b, _| (a & 0xffff_ffff) * (b & 0xffff_ffff),
        "mul.wide.s32" => |a, b, _| (i64::from(a as i32) * i64::from(b as i32)) as u64,
        "mad.wide.u32" => |a, b, c| ((a & 0xffff_ffff) * (b & 0xffff_ffff)).wrapping_add(c),
        "mad.wide.s32" => {
            |a, b, c| (i64::from(a as i32) * i64::from(b as i32)).wrapping_add(c as i64) as u64
        }
        "mul.hi.u32" => |a, b, _| ((a & 0xffff_ffff) * (b & 0xffff_ffff)) >> 32,
        "mul.hi.s32" => |a, b, _| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u64,
        "mul.hi.u64" => |a, b, _| ((u128::from(a) * u128::from(b)) >> 64) as u64,
        _ => return None,
    })
}

/// Returns the function of an instruction such as `add.s64` or `fma.rn.f32`; `None` if it is not
/// supported. Functions that the hardware approximates are exact here, and subnormal numbers are
/// not flushed to 0.
pub fn function(name: &str) -> Option<Function> {
    const SAME: [&str; 6] = ["rn", "ftz", "approx", "full", "lo", "noftz"];
    let words: Vec<&str> = name
        .split('.')
        .filter(|word| !SAME.contains(word))
        .collect();
    let (kind, op) = words.split_last()?;
    let op = op.join(".");
    other(&words.join(".")).or_else(|| match *kind {
        "b16" | "u16" => unsigned_16(&op),
        "b32" | "u32" => unsigned_32(&op),
        "b64" | "u64" => unsigned_64(&op),
        "s16" => signed_16(&op),
        "s32" => signed_32(&op),
        "s64" => signed_64(&op),
        "f16" => half(&op),
        "bf16" => brain(&op),
        "f16x2" => half_pair(&op),
        "bf16x2" => brain_pair(&op),
        "f32" => real_32(&op),
        "f64" => real_64(&op),
        _ => None,
    })
}

/// Compares two values of a type; `None` if one is NaN.
pub type Order = fn(u64, u64) -> Option<Ordering>;

/// Whether an ordering satisfies a relation, such as `lt`.
pub type Relation = fn(Option<Ordering>) -> bool;

/// Parses the words after `setp`: a relation and a type.
pub fn comparison(words: &[&str]) -> Option<(Order, Relation)> {
    let [relation_name, kind] = words else {
        return None;
    };
    let order: Order = match *kind {
        "b16" | "u16" => |a, b| (a as u16).partial_cmp(&(b as u16)),
        "b32" | "u32" => |a, b| (a as u32).partial_cmp(&(b as u32)),
        "b64" | "u64" => |a, b| a.partial_cmp(&b),
        "s16" => |a, b| (a as i16).partial_cmp(&(b as i16)),
        "s32" => |a, b| (a as i32).partial_cmp(&(b as i32)),
        "s64" => |a, b| (a as i64).partial_cmp(&(b as i64)),
        "f16" => |a, b| f16::from_bits(a as u16).partial_cmp(&f16::from_bits(b as u16)),
        "bf16" => |a, b| bf16::from_bits(a as u16).partial_cmp(&bf16::from_bits(b as u16)),
        "f32" => |a, b| f32::from_bits(a as u32).partial_cmp(&f32::from_bits(b as u32)),
        "f64" => |a, b| f64::from_bits(a).partial_cmp(&f64::from_bits(b)),
        _ => return None,
    };
    Some((order, relation(relation_name)?))
}

fn relation(name: &str) -> Option<Relation> {
    Some(match name {
        "eq" => |order| order == Some(Equal),
        "ne" => |order| matches!(order, Some(Less | Greater)),
        "lt" => |order| order == Some(Less),
        "le" => |order| matches!(order, Some(Less | Equal)),
        "gt" => |order| order == Some(Greater),
        "ge" => |order| matches!(order, Some(Greater | Equal)),
        // These also hold if a value is NaN.
        "equ" => |order| matches!(order, None | Some(Equal)),
        "neu" => |order| order != Some(Equal),
        "ltu" => |order| matches!(order, None | Some(Less)),
        "leu" => |order| order != Some(Greater),
        "gtu" => |order| matches!(order, None | Some(Greater)),
        "geu" => |order| order != Some(Less),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn real(x: f32) -> u64 {
        u64::from(x.to_bits())
    }

    #[test]
    fn functions_operate_on_the_bits_of_their_type() {
        let compute = |name: &str, a: u64, b: u64, c: u64| function(name).unwrap()(a, b, c);
        assert_eq!(compute("add.s32", 0xf_ffff_ffff, 2, 0) as u32, 1);
        assert_eq!(compute("mad.lo.s32", (-3i32) as u64, 5, 1) as i32, -14);
        assert_eq!(compute("shr.s32", (-8i32) as u64, 1, 0) as i32, -4);
        assert_eq!(compute("shr.u32", 0xf_0000_0000, 4, 0), 0);
        assert_eq!(compute("shl.b32", 1, 32, 0) as u32, 0);
        assert_eq!(compute("mul.hi.u32", 1 << 31, 6, 0), 3);
        assert_eq!(compute("mul.rn.f32", real(1.5), real(-2.0), 0), real(-3.0));
        assert_eq!(
            compute("copysign.f32", real(-1.0), real(2.0), 0),
            real(-2.0)
        );
        assert_eq!(
            compute("add.bf16x2", 0x3f80_4000, 0x3f80_3f80, 0),
            0x4000_4040
        );
        assert!(function("add.cc.u32").is_none());
    }

    /// Inexact fused products, rounded to nearest and down.
    #[test]
    fn requested_rounding_modes_are_applied() {
        let [a, b, c] = [1.0 + f32::EPSILON, 1.0 + f32::EPSILON, 1.0].map(real);
        let of = |name: &str| f32::from_bits(function(name).unwrap()(a, b, c) as u32);
        assert!((of("fma.rm.f32") - (2.0 + 2.0 * f32::EPSILON)).abs() < f32::EPSILON);
        let less = real(-1e-9);
        let down = function("fma.rm.f32").unwrap()(less, c, c);
        assert_eq!(down, real(1f32.next_down()));
        assert_eq!(function("fma.rn.f32").unwrap()(less, c, c), real(1.0));
    }

    #[test]
    fn nan_is_in_unordered_relations_only() {
        let holds = |name: &str, a: f32, b: f32| {
            let (order, relation) = comparison(&[name, "f32"]).unwrap();
            relation(order(real(a), real(b)))
        };
        for (name, holds_of_less, holds_of_none) in [
            ("lt", true, false),
            ("ne", true, false),
            ("neu", true, true),
            ("geu", false, true),
            ("eq", false, false),
        ] {
            assert_eq!(holds(name, 1.0, 2.0), holds_of_less, "{name}");
            assert_eq!(holds(name, 1.0, f32::NAN), holds_of_none, "{name}");
        }
        let (order, relation) = comparison(&["lt", "s32"]).unwrap();
        assert!(relation(order((-1i32) as u64, 1)));
    }
}
