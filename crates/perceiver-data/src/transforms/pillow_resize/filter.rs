//! Pillow's resampling filters and their numbers.

use std::f64::consts::PI;

use serde::Serialize;

/// A resampling filter of Pillow. Its number is the value of `resample` in a
/// `preprocessor_config.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "u8")]
pub enum PillowFilter {
    /// The input pixel at the centre of the output pixel, without anti-aliasing.
    Nearest = 0,
    /// A sinc of radius 3, windowed by a wider sinc.
    Lanczos = 1,
    /// A triangle of radius 1.
    Bilinear = 2,
    /// Keys's cubic with a = -0.5, of radius 2; PyTorch's has a = -0.75.
    #[default]
    Bicubic = 3,
    /// The mean over the output pixel.
    Box = 4,
    /// A sinc of radius 1 in a Hamming window.
    Hamming = 5,
}

impl PillowFilter {
    /// All filters, by number.
    pub const ALL: [Self; 6] = [
        Self::Nearest,
        Self::Lanczos,
        Self::Bilinear,
        Self::Bicubic,
        Self::Box,
        Self::Hamming,
    ];

    /// Returns the filter with this number, if there is one.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|filter| u64::from(filter.number()) == number)
    }

    /// Returns Pillow's number of the filter.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Returns the kernel of a filter that averages, and `None` for [`PillowFilter::Nearest`].
    pub(crate) fn kernel(self) -> Option<Kernel> {
        let (radius, weight): (f64, fn(f64) -> f64) = match self {
            Self::Nearest => return None,
            Self::Lanczos => (3.0, lanczos),
            Self::Bilinear => (1.0, triangle),
            Self::Bicubic => (2.0, cubic),
            Self::Box => (0.5, boxcar),
            Self::Hamming => (1.0, hamming),
        };
        Some(Kernel { radius, weight })
    }
}

impl From<PillowFilter> for u8 {
    fn from(filter: PillowFilter) -> Self {
        filter.number()
    }
}

/// Weights by the distance from the centre, in output pixels when shrinking and in input pixels
/// when enlarging.
pub(crate) struct Kernel {
    /// The distance from which on the weight is zero.
    pub(crate) radius: f64,
    /// The weight at a signed distance, not normalized.
    pub(crate) weight: fn(f64) -> f64,
}

// The operations are in Pillow's order, on which the last bit of a weight depends.

fn boxcar(x: f64) -> f64 {
    if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn hamming(x: f64) -> f64 {
    let x = x.abs();
    if x == 0.0 {
        1.0
    } else if x >= 1.0 {
        0.0
    } else {
        let angle = x * PI;
        // Pillow's constants are single precision.
        let [constant, amplitude] = [0.54_f32, 0.46].map(f64::from);
        angle.sin() / angle * (constant + amplitude * angle.cos())
    }
}

fn lanczos(x: f64) -> f64 {
    if (-3.0..3.0).contains(&x) {
        sinc(x) * sinc(x / 3.0)
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let angle = x * PI;
    angle.sin() / angle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_one_at_the_centre_and_zero_from_their_radius_on() {
        for kernel in PillowFilter::ALL
            .into_iter()
            .filter_map(PillowFilter::kernel)
        {
            let at = |x: f64| (kernel.weight)(x).abs();
            assert!((at(0.0) - 1.0).abs() < 1e-15);
            for beyond in [kernel.radius + 1e-9, kernel.radius + 10.0] {
                assert!(at(beyond) < 1e-12 && at(-beyond) < 1e-12);
            }
        }
    }

    #[test]
    fn numbers_are_those_of_pillow() {
        assert_eq!(PillowFilter::from_number(3), Some(PillowFilter::Bicubic));
        for filter in PillowFilter::ALL {
            let number = filter.number();
            assert_eq!(PillowFilter::from_number(number.into()), Some(filter));
            assert_eq!(serde_json::to_value(filter).unwrap(), number);
        }
        assert_eq!(PillowFilter::from_number(6), None);
    }
}
