//! Patch extraction: images to tokens.

use candle_core::{Result, Tensor};
use perceiver_ops::reshape;

/// Cuts `images` `[batch, channels, H, W]` into patches
/// `[batch, tokens, patch * patch * channels]`, left to right and top to bottom. Values of a patch
/// are ordered (row, column, channel), as in Keras's `extract_patches`.
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

/// Cuts a channels-last feature map `[batch, H, W, channels]` into [`patches`].
pub(crate) fn patches_of_map(map: &Tensor, patch_size: usize) -> Result<Tensor> {
    let (batch, height, width, channels) = map.dims4()?;
    let (rows, columns) = (height / patch_size, width / patch_size);
    if patch_size == 1 {
        // On a tape, so that candle adds no zeros to the gradient of a whole map.
        return reshape(map, (batch, rows * columns, channels));
    }
    map.reshape(&[batch, rows, patch_size, columns, patch_size, channels])?
        .permute([0, 1, 3, 2, 4, 5])? // [batch, rows, columns, patch, patch, channels]
        .reshape((batch, rows * columns, patch_size * patch_size * channels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn values_are_ordered_by_row_column_and_channel() {
        // Two channels of 2 x 4 pixels; values encode channel, row and column.
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
    #[test]
    fn feature_maps_are_patched_like_images() {
        let values = Tensor::arange(0f32, 2.0 * 3.0 * 24.0, &Device::Cpu).unwrap();
        let images = values.reshape((2, 3, 4, 6)).unwrap();
        let map = images.permute((0, 2, 3, 1)).unwrap();
        for size in [1, 2] {
            let expected = patches(&images, size).unwrap().to_vec3::<f32>().unwrap();
            let actual = patches_of_map(&map, size).unwrap();
            assert_eq!(actual.to_vec3::<f32>().unwrap(), expected);
        }
    }
}
