//! Contact sheets: captioned images in rows, above a color bar.

use std::io::Cursor;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, Rgb, RgbImage, imageops};
use perceiver_data::Image;

use crate::attention::caption;
use crate::attention::overlay::colour;
use crate::error::Result;

/// The space in pixels between images and around them.
const GAP: u32 = 8;

/// The scale factor of text relative to the font's size.
const SCALE: u32 = 2;

/// The size of the color bar, and the labels of its ends.
const BAR: (u32, u32) = (256, 12);
const ENDS: [&str; 2] = ["least", "most"];

/// The JPEG quality, out of 100.
const QUALITY: u8 = 92;

/// A captioned image.
#[derive(Clone, Debug)]
pub struct Tile {
    /// The image.
    pub image: Image,
    /// The text below the image.
    pub caption: String,
}

/// A row of captioned images below a title. Either may be empty.
#[derive(Clone, Debug, Default)]
pub struct SheetRow {
    /// The title.
    pub title: String,
    /// The images, from left to right.
    pub tiles: Vec<Tile>,
}

/// A contact sheet: rows of images on white.
#[derive(Clone, Debug)]
pub struct Sheet {
    canvas: RgbImage,
}

/// The image file formats of a sheet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SheetFormat {
    /// PNG.
    Png,
    /// JPEG (lossy).
    Jpeg,
    /// WebP (lossless).
    WebP,
    /// BMP.
    Bmp,
}

impl SheetFormat {
    /// Returns the format for the extension of a path, in any case, or `None` if it is not
    /// supported.
    ///
    /// ```
    /// use perceiver_report::SheetFormat;
    ///
    /// assert_eq!(SheetFormat::of("a/map.JPG".as_ref()), Some(SheetFormat::Jpeg));
    /// assert_eq!(SheetFormat::of("map.gif".as_ref()), None);
    /// ```
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "png" => Some(Self::Png),
            "jpg" | "jpeg" => Some(Self::Jpeg),
            "webp" => Some(Self::WebP),
            "bmp" => Some(Self::Bmp),
            _ => None,
        }
    }
}

impl SheetRow {
    fn height(&self) -> u32 {
        let line = caption::height(SCALE) + GAP;
        let title = if self.title.is_empty() { 0 } else { line };
        let tallest = self.tiles.iter().map(|tile| tile.image.height()).max();
        title + tallest.map_or(0, |height| height as u32 + GAP / 2 + line)
    }

    fn width(&self) -> u32 {
        let widths = self
            .tiles
            .iter()
            .map(|tile| tile.image.width() as u32 + GAP);
        widths.sum::<u32>()
    }
}

impl Sheet {
    /// Lays out the rows from top to bottom, with the color bar below them.
    pub fn new(rows: &[SheetRow]) -> Self {
        let widest = rows.iter().map(SheetRow::width).max().unwrap_or(0);
        let width = GAP + widest.max(BAR.0 + GAP);
        let bar = BAR.1 + GAP / 2 + caption::height(SCALE) + GAP;
        let height = GAP + rows.iter().map(SheetRow::height).sum::<u32>() + bar;
        let mut canvas = RgbImage::from_pixel(width, height, Rgb([255; 3]));
        let mut y = GAP;
        for row in rows {
            draw_row(&mut canvas, row, y);
            y += row.height();
        }
        draw_bar(&mut canvas, y);
        Self { canvas }
    }

    /// Encodes the sheet as an image file.
    ///
    /// # Errors
    /// When the sheet is too large for the format.
    pub fn encoded(&self, format: SheetFormat) -> Result<Vec<u8>> {
        let mut file = Cursor::new(Vec::new());
        let format = match format {
            SheetFormat::Jpeg => {
                let encoder = JpegEncoder::new_with_quality(&mut file, QUALITY);
                self.canvas.write_with_encoder(encoder)?;
                return Ok(file.into_inner());
            }
            SheetFormat::Png => ImageFormat::Png,
            SheetFormat::WebP => ImageFormat::WebP,
            SheetFormat::Bmp => ImageFormat::Bmp,
        };
        self.canvas.write_to(&mut file, format)?;
        Ok(file.into_inner())
    }
}

fn draw_row(canvas: &mut RgbImage, row: &SheetRow, mut y: u32) {
    let room = canvas.width() - 2 * GAP;
    if !row.title.is_empty() {
        caption::draw(canvas, &row.title, (GAP, y), SCALE, room);
        y += caption::height(SCALE) + GAP;
    }
    let mut x = GAP;
    for tile in &row.tiles {
        let (width, height) = (tile.image.width() as u32, tile.image.height() as u32);
        if let Some(image) = RgbImage::from_raw(width, height, tile.image.to_interleaved()) {
            imageops::replace(canvas, &image, x.into(), y.into());
        }
        let below = (x, y + height + GAP / 2);
        caption::draw(canvas, &tile.caption, below, SCALE, width);
        x += width + GAP;
    }
}

fn draw_bar(canvas: &mut RgbImage, y: u32) {
    for x in 0..BAR.0 {
        let colour = Rgb(colour(x as f32 / (BAR.0 - 1) as f32));
        for y in y..y + BAR.1 {
            canvas.put_pixel(GAP + x, y, colour);
        }
    }
    let [least, most] = ENDS;
    let below = y + BAR.1 + GAP / 2;
    let right = GAP + BAR.0 - caption::width(most, SCALE);
    caption::draw(canvas, least, (GAP, below), SCALE, BAR.0 / 2);
    caption::draw(canvas, most, (right, below), SCALE, BAR.0 / 2);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(value: u8, caption: &str) -> Tile {
        Tile {
            image: Image::new(40, 40, vec![value; 3 * 1600]).unwrap(),
            caption: caption.to_string(),
        }
    }

    fn sheet(rows: &[SheetRow], format: SheetFormat) -> Image {
        let file = Sheet::new(rows).encoded(format).unwrap();
        Image::decode(&file, Path::new("sheet")).unwrap()
    }

    /// Whether these rows and columns contain a dark pixel.
    fn is_written(
        sheet: &Image,
        rows: std::ops::Range<usize>,
        columns: std::ops::Range<usize>,
    ) -> bool {
        let at = |y: usize, x: usize| sheet.pixels()[y * sheet.width() + x];
        rows.clone().any(|y| columns.clone().any(|x| at(y, x) < 64))
    }

    #[test]
    fn tiles_are_laid_out_in_rows_with_captions() {
        let rows = [
            SheetRow {
                title: "first".to_string(),
                tiles: vec![tile(101, "a"), tile(102, "")],
            },
            SheetRow {
                title: String::new(),
                tiles: vec![tile(103, "b")],
            },
        ];
        let sheet = sheet(&rows, SheetFormat::Png);
        let at = |y: usize, x: usize| sheet.pixels()[y * sheet.width() + x];
        // From top to bottom: margin, title, image, caption, next row.
        let (first, second) = (8 + 24, 8 + 24 + 40 + 4 + 24);
        assert_eq!(
            [at(first, 8), at(first, 56), at(second, 8)],
            [101, 102, 103]
        );
        assert_eq!(at(first, 50), 255);
        assert!(is_written(&sheet, 8..24, 8..88), "the title");
        assert!(
            is_written(&sheet, first + 44..first + 60, 8..24),
            "a caption"
        );
        assert!(!is_written(&sheet, first + 44..first + 60, 56..96), "none");
    }

    #[test]
    fn the_color_bar_spans_the_whole_range() {
        let sheet = sheet(&[], SheetFormat::Png);
        let plane = sheet.width() * sheet.height();
        let colour_at = |x: usize| {
            let at = 10 * sheet.width() + x;
            [0, 1, 2].map(|channel| sheet.pixels()[channel * plane + at])
        };
        assert_eq!(colour_at(8), colour(0.0));
        assert_eq!(colour_at(8 + 255), colour(1.0));
        assert!(is_written(&sheet, 24..40, 8..88) && is_written(&sheet, 24..40, 200..264));
    }

    #[test]
    fn every_format_round_trips() {
        let rows = [SheetRow {
            title: "x".to_string(),
            tiles: vec![tile(90, "")],
        }];
        let png = sheet(&rows, SheetFormat::Png);
        for format in [SheetFormat::WebP, SheetFormat::Bmp] {
            assert_eq!(sheet(&rows, format), png, "{format:?}");
        }
        let jpeg = sheet(&rows, SheetFormat::Jpeg);
        assert_eq!((jpeg.height(), jpeg.width()), (png.height(), png.width()));
        assert_eq!(
            &Sheet::new(&rows).encoded(SheetFormat::Jpeg).unwrap()[..2],
            [0xff, 0xd8]
        );
    }
}
