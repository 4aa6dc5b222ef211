//! Pictures of one size in rows, as one picture.

use image::{ImageFormat, RgbImage, imageops};
use perceiver_data::Image;

use crate::error::Result;

/// Pixels between pictures.
const GAP: u32 = 8;

/// Rows of pictures on white.
#[derive(Clone, Debug)]
pub struct Sheet {
    picture: RgbImage,
}

impl Sheet {
    /// Lays pictures out, the largest deciding the distances.
    pub fn new(rows: &[Vec<Image>]) -> Self {
        let all = || rows.iter().flatten();
        let width = all().map(Image::width).max().unwrap_or(1) as u32;
        let height = all().map(Image::height).max().unwrap_or(1) as u32;
        let across = rows.iter().map(Vec::len).max().unwrap_or(0) as u32;
        let size = |count: u32, side: u32| (count * (side + GAP)).saturating_sub(GAP).max(1);
        let size = (size(across, width), size(rows.len() as u32, height));
        let mut picture = RgbImage::from_pixel(size.0, size.1, image::Rgb([255; 3]));
        for (row, y) in rows.iter().zip((0..).step_by((height + GAP) as usize)) {
            for (tile, x) in row.iter().zip((0..).step_by((width + GAP) as usize)) {
                let (width, height) = (tile.width() as u32, tile.height() as u32);
                if let Some(tile) = RgbImage::from_raw(width, height, tile.to_interleaved()) {
                    imageops::replace(&mut picture, &tile, x, y);
                }
            }
        }
        Self { picture }
    }

    /// The bytes of a PNG file.
    ///
    /// # Errors
    /// When it is too large to encode.
    pub fn png(&self) -> Result<Vec<u8>> {
        let mut png = std::io::Cursor::new(Vec::new());
        self.picture.write_to(&mut png, ImageFormat::Png)?;
        Ok(png.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn pictures_stand_beside_and_below_one_another() {
        let tile = |value| Image::new(4, 4, vec![value; 48]).unwrap();
        let sheet = Sheet::new(&[vec![tile(1), tile(2)], vec![tile(3)]]);
        let png = sheet.png().unwrap();
        let picture = Image::decode(&png, Path::new("sheet.png")).unwrap();
        assert_eq!((picture.height(), picture.width()), (16, 16));
        let at = |y: usize, x: usize| picture.pixels()[y * 16 + x];
        assert_eq!(
            [at(0, 0), at(0, 12), at(12, 0), at(12, 12), at(0, 6)],
            [1, 2, 3, 255, 255]
        );
    }
}
