//! Values in 64-bit registers: the meaning of their bits by type, and conversions.

use half::{bf16, f16};

/// Returns the size in bytes of a type; `None` for an unknown name.
pub fn size_of(kind: &str) -> Option<usize> {
    Some(match kind {
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        _ => return None,
    })
}

/// The type of a value that is loaded or converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Bits or an unsigned integer, with the size in bytes.
    Unsigned(usize),
    /// A signed integer, with the size in bytes.
    Signed(usize),
    /// `f16`.
    F16,
    /// `bf16`.
    Bf16,
    /// `f32`.
    F32,
    /// `f64`.
    F64,
}

impl Type {
    /// Parses the name of a type.
    pub fn parse(name: &str) -> Option<Self> {
        let size = size_of(name)?;
        Some(match name {
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "f32" => Self::F32,
            "f64" => Self::F64,
            name if name.starts_with('s') => Self::Signed(size),
            _ => Self::Unsigned(size),
        })
    }

    /// Returns the size in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::Unsigned(size) | Self::Signed(size) => size,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// Loads a value, with sign extension for signed types.
    ///
    /// # Safety
    /// `pointer` must be valid for reading a value of this type.
    pub unsafe fn load(self, pointer: *const u8) -> u64 {
        let mut bytes = [0; 8];
        // SAFETY: guaranteed by the caller.
        unsafe { pointer.copy_to_nonoverlapping(bytes.as_mut_ptr(), self.size()) };
        let bits = u64::from_le_bytes(bytes);
        let unused = 64 - 8 * self.size() as u32;
        if matches!(self, Self::Signed(_)) {
            ((bits << unused) as i64 >> unused) as u64
        } else {
            bits
        }
    }

    /// Stores the lowest bits.
    ///
    /// # Safety
    /// `pointer` must be valid for writing a value of this type.
    pub unsafe fn store(self, pointer: *mut u8, bits: u64) {
        // SAFETY: guaranteed by the caller.
        unsafe { pointer.copy_from_nonoverlapping(bits.to_le_bytes().as_ptr(), self.size()) };
    }

    /// Converts bits of this type to `f32`.
    pub fn to_f32(self, bits: u64) -> f32 {
        self.number(bits).real() as f32
    }

    /// Returns the bits of the nearest value of this type.
    pub fn bits_of(self, x: f32) -> u64 {
        self.bits(Number::Real(f64::from(x)))
    }

    /// Returns the number that the lowest bits represent.
    fn number(self, bits: u64) -> Number {
        let unused = 64 - 8 * self.size() as u32;
        match self {
            Self::Unsigned(_) => Number::Whole(i128::from(bits << unused >> unused)),
            Self::Signed(_) => Number::Whole(i128::from((bits << unused) as i64 >> unused)),
            Self::F16 => Number::Real(f16::from_bits(bits as u16).to_f64()),
            Self::Bf16 => Number::Real(bf16::from_bits(bits as u16).to_f64()),
            Self::F32 => Number::Real(f64::from(f32::from_bits(bits as u32))),
            Self::F64 => Number::Real(f64::from_bits(bits)),
        }
    }

    /// Returns the bits of the nearest number; conversions to integers saturate.
    fn bits(self, number: Number) -> u64 {
        match (self, number) {
            (Self::Unsigned(_) | Self::Signed(_), Number::Whole(x)) => x as u64,
            (Self::Unsigned(size), Number::Real(x)) => (x as u64).min(u64::MAX >> (64 - 8 * size)),
            (Self::Signed(size), Number::Real(x)) => {
                let most = i64::MAX >> (64 - 8 * size);
                (x as i64).clamp(-most - 1, most) as u64
            }
            (Self::F16, number) => u64::from(f16::from_f64(number.real()).to_bits()),
            (Self::Bf16, number) => u64::from(bf16::from_f64(number.real()).to_bits()),
            (Self::F32, Number::Whole(x)) => u64::from((x as f32).to_bits()),
            (Self::F32, Number::Real(x)) => u64::from((x as f32).to_bits()),
            (Self::F64, number) => number.real().to_bits(),
        }
    }
}

#[derive(Clone, Copy)]
enum Number {
    Whole(i128),
    Real(f64),
}

impl Number {
    fn real(self) -> f64 {
        match self {
            Self::Whole(x) => x as f64,
            Self::Real(x) => x,
        }
    }
}

/// A `cvt` instruction, from one type to another.
#[derive(Debug, Clone, Copy)]
pub struct Conversion {
    from: Type,
    to: Type,
    round: fn(f64) -> f64,
}

impl Conversion {
    /// Parses the words after `cvt`.
    pub fn parse(words: &[&str]) -> Option<Self> {
        let [modifiers @ .., to, from] = words else {
            return None;
        };
        let mut round: fn(f64) -> f64 = |x| x;
        for modifier in modifiers {
            round = match *modifier {
                "rn" | "ftz" => round,
                "rni" => f64::round_ties_even,
                "rzi" => f64::trunc,
                "rmi" => f64::floor,
                "rpi" => f64::ceil,
                "sat" => |x| if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) },
                _ => return None,
            };
        }
        Some(Self {
            from: Type::parse(from)?,
            to: Type::parse(to)?,
            round,
        })
    }

    /// Converts bits of one type to bits of the other.
    pub fn of(self, bits: u64) -> u64 {
        match self.from.number(bits) {
            Number::Real(x) => self.to.bits(Number::Real((self.round)(x))),
            whole @ Number::Whole(_) => self.to.bits(whole),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_round_extend_and_saturate() {
        let convert = |name: &str, bits: u64| {
            let words: Vec<&str> = name.split('.').collect();
            Conversion::parse(&words).unwrap().of(bits)
        };
        let real = |x: f32| u64::from(x.to_bits());
        assert_eq!(convert("rzi.u32.f32", real(-1.5)), 0);
        assert_eq!(convert("rzi.s32.f32", real(-1.5)) as i32, -1);
        assert_eq!(convert("rni.s32.f32", real(2.5)), 2);
        assert_eq!(convert("rzi.s32.f32", real(1e30)), i32::MAX as u64);
        assert_eq!(convert("s64.s32", 0xffff_fffe) as i64, -2);
        assert_eq!(convert("u64.u32", 0xf_ffff_fffe), 0xffff_fffe);
        assert_eq!(convert("rn.bf16.f32", real(1.0 + 1.0 / 256.0)), 0x3f80);
        assert_eq!(convert("f32.bf16", 0x3f81), real(1.0 + 1.0 / 128.0));
        assert_eq!(convert("sat.f32.f32", real(f32::NAN)), 0);
        assert!(Conversion::parse(&["rn", "satfinite", "e4m3x2", "f32"]).is_none());
    }
}
