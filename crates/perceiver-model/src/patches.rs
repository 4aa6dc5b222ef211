//! Images cut into patches: the tokens of the data array.

use candle_core::{Result, Tensor};

/// Cuts `images` `[batch, channels, H, W]` into patches `[batch, tokens, patch * patch * channels]`, left to right and
/// top to bottom, each patch's values ordered (row, column, channel) as Keras's `extract_patches` has them.
///
/// # Errors
/// When `H` or `W` is not a multiple of `patch_size`.
pub fn patches(images: &Tensor, patch_size: usize) -> Result<Tensor> {
    let (batch, channels, height, width) = images.dims4()?;
    let (rows, columns) = (height / patch_size, width / patch_size);
    images
        .reshape(&[batch, channels, rows, patch_size, columns, patch_size])?
        .permute([0, 2, 4, 3, 5, 1])? // [batch, rows, columns, patch, patch, channels]
        .reshape((batch, rows * columns, patch_size * patch_size * channels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn values_are_ordered_by_row_column_and_channel() {
        // Two channels of 2 x 4 pixels; the value says channel, row and column.
        let image: Vec<f32> = (0..2)
            .flat_map(|c| {
                (0..2).flat_map(move |y| (0..4).map(move |x| (100 * c + 10 * y + x) as f32))
            })
            .collect();
        let image = Tensor::from_vec(image, (1, 2, 2, 4), &Device::Cpu).unwrap();
        let patches = patches(&image, 2).unwrap().to_vec3::<f32>().unwrap();
        assert_eq!(patches[0][0], [0., 100., 1., 101., 10., 110., 11., 111.]);
        assert_eq!(patches[0][1], [2., 102., 3., 103., 12., 112., 13., 113.]);
    }
}
