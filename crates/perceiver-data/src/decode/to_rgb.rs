//! Converts decoded pixels of any type to 8-bit RGB in place.

use image::ColorType;

/// Whether this conversion supports a pixel type.
pub(crate) fn is_known(colour: ColorType) -> bool {
    use ColorType::{L8, L16, La8, La16, Rgb8, Rgb16, Rgb32F, Rgba8, Rgba16, Rgba32F};
    matches!(
        colour,
        L8 | La8 | Rgb8 | Rgba8 | L16 | La16 | Rgb16 | Rgba16 | Rgb32F | Rgba32F
    )
}

/// Returns the bytes of a buffer that holds `pixels` pixels before and after the conversion.
pub(crate) fn buffer_len(pixels: u64, colour: ColorType) -> u64 {
    pixels.saturating_mul(u64::from(colour.bytes_per_pixel()).max(3))
}

/// Converts the first `pixels` pixels of `buffer`, which is [`buffer_len`] long, to 8-bit RGB in
/// place and truncates the rest.
///
/// Transparency is blended with white in the stored (gamma-encoded) values, as browsers do.
pub(crate) fn to_rgb8(buffer: &mut Vec<u8>, pixels: usize, colour: ColorType) {
    match colour {
        ColorType::L8 => convert(buffer, pixels, |[grey]| [grey; 3]),
        ColorType::La8 => convert(buffer, pixels, |[grey, alpha]| over_white([grey; 3], alpha)),
        ColorType::Rgba8 => convert(buffer, pixels, |[red, green, blue, alpha]| {
            over_white([red, green, blue], alpha)
        }),
        ColorType::L16 => convert(buffer, pixels, |[a, b]| [byte(a, b); 3]),
        ColorType::La16 => convert(buffer, pixels, |[a, b, c, d]| {
            over_white([byte(a, b); 3], byte(c, d))
        }),
        ColorType::Rgb16 => convert(buffer, pixels, |[a, b, c, d, e, f]| {
            [byte(a, b), byte(c, d), byte(e, f)]
        }),
        ColorType::Rgba16 => convert(buffer, pixels, |[a, b, c, d, e, f, g, h]| {
            over_white([byte(a, b), byte(c, d), byte(e, f)], byte(g, h))
        }),
        ColorType::Rgb32F => convert(buffer, pixels, |pixel: [u8; 12]| {
            [0, 4, 8].map(|at| float(&pixel[at..]))
        }),
        ColorType::Rgba32F => convert(buffer, pixels, |pixel: [u8; 16]| {
            over_white([0, 4, 8].map(|at| float(&pixel[at..])), float(&pixel[12..]))
        }),
        _ => {}
    }
    buffer.truncate(3 * pixels);
}

/// Makes RGBA that is transparent everywhere opaque.
pub(crate) fn drop_empty_alpha(buffer: &mut [u8]) {
    let pixels = buffer.as_chunks_mut::<4>().0;
    if pixels.iter().all(|pixel| pixel[3] == 0) {
        for pixel in pixels {
            pixel[3] = u8::MAX;
        }
    }
}

/// Converts pixels of `N` bytes to pixels of three, in place. Growing pixels are converted from the
/// last one, so that none is overwritten before it is read.
fn convert<const N: usize>(buffer: &mut [u8], pixels: usize, rgb: impl Fn([u8; N]) -> [u8; 3]) {
    let mut one = |at: usize| {
        let mut pixel = [0; N];
        pixel.copy_from_slice(&buffer[N * at..][..N]);
        buffer[3 * at..][..3].copy_from_slice(&rgb(pixel));
    };
    if N < 3 {
        (0..pixels).rev().for_each(&mut one);
    } else {
        (0..pixels).for_each(&mut one);
    }
}

fn over_white(colour: [u8; 3], alpha: u8) -> [u8; 3] {
    let alpha = u32::from(alpha);
    colour.map(|value| ((u32::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
}

/// Rounds 16 bits in native byte order to 8.
fn byte(first: u8, second: u8) -> u8 {
    ((u32::from(u16::from_ne_bytes([first, second])) + 128) / 257) as u8
}

/// Converts a float in `[0, 1]`, four bytes in native byte order, to 8 bits.
fn float(bytes: &[u8]) -> u8 {
    let value = f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    (value.clamp(0.0, 1.0) * 255.0).round() as u8
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, Rgb, Rgba};

    use super::*;

    fn converted(image: &DynamicImage) -> Vec<u8> {
        let (pixels, colour) = (image.width() * image.height(), image.color());
        let mut buffer = image.as_bytes().to_vec();
        buffer.resize(buffer_len(u64::from(pixels), colour) as usize, 0);
        to_rgb8(&mut buffer, pixels as usize, colour);
        buffer
    }

    /// Returns images of every opaque pixel type, with colours that use all 16 bits.
    fn opaque() -> Vec<DynamicImage> {
        let wide = DynamicImage::from(image::ImageBuffer::from_fn(37, 29, |x, y| {
            Rgb([(x * 1771) as u16, (y * 2259) as u16, (x * y * 61) as u16])
        }));
        vec![
            wide.to_luma8().into(),
            wide.to_rgb8().into(),
            wide.to_luma16().into(),
            wide.to_rgb32f().into(),
            wide,
        ]
    }

    #[test]
    fn opaque_pixels_convert_as_in_the_image_crate() {
        for image in opaque() {
            assert!(is_known(image.color()));
            assert_eq!(
                converted(&image),
                image.to_rgb8().into_raw(),
                "{:?}",
                image.color()
            );
        }
    }

    #[test]
    fn transparent_pixels_are_blended_with_white() {
        let wide = DynamicImage::from(image::ImageBuffer::from_fn(16, 16, |x, y| {
            Rgba([9000_u16, 40_000, (x * 4000) as u16, (y * 4369) as u16])
        }));
        for image in [
            wide.to_luma_alpha8().into(),
            wide.to_rgba8().into(),
            wide.to_luma_alpha16().into(),
            DynamicImage::from(wide.to_rgba32f()),
            wide,
        ] {
            let expected: Vec<u8> = image
                .to_rgba8()
                .pixels()
                .flat_map(|pixel| {
                    let [colour @ .., alpha] = pixel.0;
                    over_white(colour, alpha)
                })
                .collect();
            assert_eq!(converted(&image), expected, "{:?}", image.color());
        }
        assert_eq!(over_white([0, 100, 255], 51), [204, 224, 255]);
    }

    #[test]
    fn only_all_zero_alpha_is_dropped() {
        let mut empty = vec![1, 2, 3, 0, 4, 5, 6, 0];
        drop_empty_alpha(&mut empty);
        assert_eq!(empty, [1, 2, 3, 255, 4, 5, 6, 255]);
        let mut some = vec![1, 2, 3, 0, 4, 5, 6, 1];
        drop_empty_alpha(&mut some);
        assert_eq!(some, [1, 2, 3, 0, 4, 5, 6, 1]);
    }
}
