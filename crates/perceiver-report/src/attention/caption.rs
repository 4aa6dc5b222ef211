//! Captions in images, in a built-in bitmap font.

use font8x8::{BASIC_FONTS, GREEK_FONTS, HIRAGANA_FONTS, LATIN_FONTS, UnicodeFonts};
use image::{Rgb, RgbImage};

/// The width and height of a character in pixels, at scale 1.
const SIDE: u32 = 8;

/// The replacement for a character that the font does not have.
const UNKNOWN: char = '?';

/// The ending of a truncated text.
const CUT: &str = "..";

const INK: Rgb<u8> = Rgb([32, 32, 32]);

/// Returns the height of a line in pixels.
pub(crate) const fn height(scale: u32) -> u32 {
    SIDE * scale
}

/// Returns the width of a text in pixels.
pub(crate) fn width(text: &str, scale: u32) -> u32 {
    text.chars().count() as u32 * SIDE * scale
}

/// Draws a text with its upper left corner at (x, y), truncated to a width of `room` pixels.
pub(crate) fn draw(image: &mut RgbImage, text: &str, (x, y): (u32, u32), scale: u32, room: u32) {
    for (at, character) in (0..).zip(fitting(text, (room / (SIDE * scale)) as usize).chars()) {
        draw_character(image, character, (x + at * SIDE * scale, y), scale);
    }
}

/// Truncates a text to at most `most` characters.
fn fitting(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_string();
    }
    let kept = text.chars().take(most.saturating_sub(CUT.len()));
    kept.chain(CUT.chars()).take(most).collect()
}

fn draw_character(image: &mut RgbImage, character: char, (x, y): (u32, u32), scale: u32) {
    for (row, bits) in (0..).zip(glyph(character)) {
        for column in (0..SIDE).filter(|column| bits >> column & 1 == 1) {
            for (down, right) in
                (0..scale).flat_map(|down| (0..scale).map(move |right| (down, right)))
            {
                let position = (x + column * scale + right, y + row * scale + down);
                if let Some(pixel) = image.get_pixel_mut_checked(position.0, position.1) {
                    *pixel = INK;
                }
            }
        }
    }
}

/// Returns the pixel rows of a character; the leftmost pixel is the lowest bit.
fn glyph(character: char) -> [u8; 8] {
    let in_fonts = |character| {
        BASIC_FONTS
            .get(character)
            .filter(|_| !character.is_control())
            .or_else(|| LATIN_FONTS.get(character))
            .or_else(|| GREEK_FONTS.get(character))
            .or_else(|| HIRAGANA_FONTS.get(character))
    };
    in_fonts(character)
        .or_else(|| in_fonts(UNKNOWN))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws a text and returns its pixel rows as `#` and spaces.
    fn drawn(text: &str, room: u32) -> Vec<String> {
        let mut image = RgbImage::from_pixel(room, SIDE, Rgb([255; 3]));
        draw(&mut image, text, (0, 0), 1, room);
        let rows = image.rows().map(|row| {
            let shown = row.map(|pixel| if *pixel == INK { '#' } else { ' ' });
            shown.collect::<String>().trim_end().to_string()
        });
        rows.collect()
    }

    #[test]
    fn letters_are_upright_and_left_to_right() {
        // The stem of an L is on the left, its foot below.
        let actual = drawn("L", 16);
        assert_eq!(actual[0], "####");
        assert_eq!(actual[6], "#######");
        assert_eq!(actual[7], "");
        let two = drawn("LL", 16);
        assert_eq!(two[6], "####### #######");
    }

    #[test]
    fn missing_glyphs_and_control_characters_are_question_marks() {
        for character in ['\u{1b}', '\n', '\u{4e2d}'] {
            assert_eq!(glyph(character), glyph('?'), "{character:?}");
        }
        assert_ne!(glyph('é'), glyph('?'));
        assert_ne!(glyph('λ'), glyph('?'));
    }

    #[test]
    fn long_texts_are_truncated_with_an_ellipsis() {
        assert_eq!(fitting("abcdef", 6), "abcdef");
        assert_eq!(fitting("abcdef", 5), "abc..");
        assert_eq!(fitting("abcdef", 1), ".");
        assert_eq!(fitting("abcdef", 0), "");
        assert!(drawn("abcdef", 16).iter().all(|row| row.len() <= 16));
    }
}
