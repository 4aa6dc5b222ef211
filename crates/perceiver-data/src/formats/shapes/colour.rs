//! Random colours of a given lightness.

use super::random::Random;
use crate::dataset::image::CHANNELS;

/// Red, green and blue in [0, 1].
pub(super) type Colour = [f32; CHANNELS];

/// The weights of red, green and blue in lightness (Rec. 601).
const WEIGHTS: Colour = [0.299, 0.587, 0.114];

/// Returns the lightness of a colour, in [0, 1].
pub(super) fn lightness(colour: Colour) -> f32 {
    colour
        .iter()
        .zip(WEIGHTS)
        .map(|(v, weight)| v * weight)
        .sum()
}

/// Draws a colour of random hue and saturation with this lightness.
pub(super) fn any_of_lightness(random: &mut Random, wanted: f32) -> Colour {
    let hue = random.within(0.0, 6.0);
    let saturation = random.within(0.35, 0.95);
    mix(
        [wanted; CHANNELS],
        with_lightness(pure(hue), wanted),
        saturation,
    )
}

/// Darkens a colour, or mixes it with white, to this lightness.
pub(super) fn with_lightness(colour: Colour, wanted: f32) -> Colour {
    let now = lightness(colour);
    if wanted < now {
        colour.map(|v| v * wanted / now)
    } else {
        let white = (wanted - now) / (1.0 - now).max(f32::EPSILON);
        mix(colour, [1.0; CHANNELS], white)
    }
}

/// Interpolates linearly: `from` at `way` 0, `to` at 1.
pub(super) fn mix(from: Colour, to: Colour, way: f32) -> Colour {
    std::array::from_fn(|channel| from[channel] + way * (to[channel] - from[channel]))
}

/// Returns the saturated colour of a hue in [0, 6): 0 is red, 2 green, 4 blue.
fn pure(hue: f32) -> Colour {
    let near = |peak: f32| (2.0 - (hue - peak).abs()).clamp(0.0, 1.0);
    [(near(0.0) + near(6.0)).min(1.0), near(2.0), near(4.0)]
}

#[cfg(test)]
mod tests {
    use perceiver_ops::RngKey;

    use super::*;

    #[test]
    fn colours_have_the_given_lightness_and_every_hue() {
        let mut random = Random::new(RngKey::new(0));
        let mut strongest = [0; CHANNELS];
        for step in 0..300 {
            let wanted = 0.05 + 0.003 * step as f32;
            let colour = any_of_lightness(&mut random, wanted);
            assert!((lightness(colour) - wanted).abs() < 1e-5);
            assert!(
                colour.iter().all(|v| (-1e-6..1.0 + 1e-6).contains(v)),
                "{colour:?}"
            );
            let channel = (0..CHANNELS).max_by(|&a, &b| colour[a].total_cmp(&colour[b]));
            strongest[channel.unwrap()] += 1;
        }
        assert!(strongest.iter().all(|count| *count > 50), "{strongest:?}");
    }
}
