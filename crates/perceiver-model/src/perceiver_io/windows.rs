//! Windows of a feature map at a stride of 2, with padding as the Perceiver IO models need it.

use candle_core::{Result, Tensor, bail};
use perceiver_ops::im2col;

/// The distance between windows.
const STRIDE: usize = 2;

/// The windows along one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// Number of windows.
    pub(crate) count: usize,
    /// Number of zeros before the first value in the first window.
    pub(crate) before: usize,
}

impl Axis {
    /// Returns the windows of `side` values with `padding` zeros at both ends of `length` values;
    /// windows are complete. `None` if there is none.
    pub(crate) fn padded(length: usize, side: usize, padding: usize) -> Option<Self> {
        let last = (length + 2 * padding).checked_sub(side)?;
        Some(Self {
            count: last / STRIDE + 1,
            before: padding,
        })
    }

    /// Returns the windows of TensorFlow's and JAX's `SAME` padding: one for every second value,
    /// with the zeros divided between both ends and an odd one at the end.
    pub(crate) fn same(length: usize, side: usize) -> Self {
        let count = length.div_ceil(STRIDE);
        let covered = (count.max(1) - 1) * STRIDE + side;
        Self {
            count,
            before: covered.saturating_sub(length) / 2,
        }
    }
}

/// Gathers windows: `[batch, H, W, channels] -> [batch, rows, columns, side * side * channels]`, in
/// the order (row, column, channel).
///
/// [`im2col`] centres its windows on values 0, 2, 4 and so on. Windows that begin one value later
/// are those of a map with one more value in front.
pub(crate) fn windows(map: &Tensor, side: usize, axes: [Axis; 2]) -> Result<Tensor> {
    let mut map = map.clone();
    let mut starts = [0; 2];
    for (dim, (axis, start)) in axes.iter().zip(&mut starts).enumerate() {
        *start = match (side / 2).checked_sub(axis.before) {
            Some(start) if start <= 1 => start,
            _ => bail!("windows of {side} after {} zeros", axis.before),
        };
        map = map.contiguous()?.pad_with_zeros(dim + 1, *start, 0)?;
    }
    let mut taken = im2col(&map, side, STRIDE)?;
    for (dim, (axis, start)) in axes.iter().zip(starts).enumerate() {
        taken = taken.narrow(dim + 1, start, axis.count)?;
    }
    taken.contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    /// Kernel sizes with a padding rule: that of transformers, or `SAME`.
    fn axis(length: usize, side: usize, same: bool) -> Axis {
        let padding = if side == 7 { 3 } else { 0 };
        if same {
            Axis::same(length, side)
        } else {
            Axis::padded(length, side, padding).unwrap()
        }
    }

    #[test]
    fn windows_of_the_checkpoints_have_the_known_counts() {
        assert_eq!(axis(224, 7, false).count, 112);
        assert_eq!(axis(112, 3, false).count, 55);
        let [conv, pool] = [axis(224, 7, true), axis(112, 3, true)];
        assert_eq!((conv.count, conv.before), (112, 2));
        assert_eq!((pool.count, pool.before), (56, 0));
        assert_eq!(Axis::padded(2, 3, 0), None);
    }

    #[test]
    fn windows_equal_slices_of_the_padded_map() {
        for (height, width) in [(8, 9), (9, 8), (5, 5), (12, 6)] {
            for (side, same) in [(7, false), (7, true), (3, false), (3, true)] {
                let axes = [axis(height, side, same), axis(width, side, same)];
                let map = Tensor::arange(1f32, (height * width * 2 + 1) as f32, &Device::Cpu);
                let map = map.unwrap().reshape((1, height, width, 2)).unwrap();
                let actual = windows(&map, side, axes).unwrap();
                assert_eq!(
                    actual.dims(),
                    [1, axes[0].count, axes[1].count, side * side * 2]
                );
                let padded = map
                    .pad_with_zeros(1, axes[0].before, side)
                    .and_then(|map| map.pad_with_zeros(2, axes[1].before, side))
                    .unwrap();
                for (row, column) in [(0, 0), (axes[0].count - 1, axes[1].count - 1)] {
                    let expected = padded
                        .narrow(1, 2 * row, side)
                        .and_then(|map| map.narrow(2, 2 * column, side))
                        .and_then(|map| map.flatten_all())
                        .unwrap();
                    let actual = actual.get(0).and_then(|rows| rows.get(row)).unwrap();
                    let actual = actual.get(column).unwrap().to_vec1::<f32>().unwrap();
                    assert_eq!(actual, expected.to_vec1::<f32>().unwrap());
                }
            }
        }
    }

    #[test]
    fn unsupported_padding_is_rejected() {
        let map = Tensor::zeros((1, 8, 8, 1), DType::F32, &Device::Cpu).unwrap();
        let axes = [Axis {
            count: 1,
            before: 0,
        }; 2];
        assert!(windows(&map, 7, axes).is_err());
    }
}
