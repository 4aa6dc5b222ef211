//! Draws one image: a figure in random pose and colours over a cluttered background, with noise.

use perceiver_ops::RngKey;

use super::SIZE;
use super::background::{Background, Gradient};
use super::colour::mix;
use super::figure::{Figure, Point, at};
use super::random::Random;
use crate::dataset::image::{CHANNELS, Image};
use crate::error::Result;

/// The largest half-extent of a figure, in pixels; scales are fractions of it.
const RADIUS: f32 = 13.5;
/// The range of scales.
const SCALE: [f32; 2] = [0.66, 1.0];
/// The largest distance of a figure's centre from the image's, in pixels, along each axis.
const SHIFT: f32 = 3.0;
/// The tangent of half the largest tilt, 16 degrees.
const HALF_TILT: f32 = 0.14;
/// The largest change by noise, in units of the range [0, 1].
const NOISE: f32 = 0.08;

/// Draws `figure` in a scene that depends only on `key`.
pub(super) fn draw(figure: Figure, key: RngKey) -> Result<Image> {
    let mut random = Random::new(key.fold_in_name("scene"));
    let pose = Pose::random(&mut random);
    let [dark, light] = [random.within(0.1, 0.34), random.within(0.64, 0.92)];
    let [ground, ink] = if random.flip() {
        [dark, light]
    } else {
        [light, dark]
    };
    let background = Background::random(&mut random, ground);
    let ink = Gradient::random(&mut random, ink, 0.08);

    let noise = key.fold_in_name("noise");
    let mut planes = vec![0; CHANNELS * SIZE * SIZE];
    for pixel in 0..SIZE * SIZE {
        let p = at((pixel % SIZE) as f32, (pixel / SIZE) as f32);
        let cover = pose.coverage(figure, p);
        let colour = mix(background.colour(p), ink.colour(p), cover);
        let grain = noise.bits(pixel as u64).to_le_bytes();
        for (channel, value) in colour.into_iter().enumerate() {
            // The difference of two uniform bytes: a triangular density, close to camera noise.
            let speck = f32::from(grain[2 * channel]) - f32::from(grain[2 * channel + 1]);
            let noisy = value + NOISE * speck / 255.0;
            planes[channel * SIZE * SIZE + pixel] = (noisy * 255.0 + 0.5).clamp(0.0, 255.0) as u8;
        }
    }
    Image::new(SIZE, SIZE, planes)
}

/// The pose of a figure: mirroring, tilt, scale and position.
struct Pose {
    centre: Point,
    /// Pixels per unit of the figure.
    scale: f32,
    cos: f32,
    sin: f32,
    /// -1 if the figure is mirrored, otherwise 1.
    facing: f32,
}

impl Pose {
    fn random(random: &mut Random) -> Self {
        let middle = (SIZE as f32 - 1.0) / 2.0;
        // The half-angle formulas give an exact rotation without a library's sine.
        let half = random.within(-HALF_TILT, HALF_TILT);
        let square = 1.0 + half * half;
        Self {
            centre: at(
                middle + random.within(-SHIFT, SHIFT),
                middle + random.within(-SHIFT, SHIFT),
            ),
            scale: RADIUS * random.within(SCALE[0], SCALE[1]),
            cos: (1.0 - half * half) / square,
            sin: 2.0 * half / square,
            facing: if random.flip() { -1.0 } else { 1.0 },
        }
    }

    /// Returns the share of the pixel at `p` that the figure covers, in [0, 1].
    fn coverage(&self, figure: Figure, p: Point) -> f32 {
        let (dx, dy) = (
            (p.x - self.centre.x) / self.scale,
            (p.y - self.centre.y) / self.scale,
        );
        let turned = at(self.cos * dx + self.sin * dy, self.cos * dy - self.sin * dx);
        let distance = self.scale * figure(at(self.facing * turned.x, turned.y));
        (0.5 - distance).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::shapes::colour::lightness;
    use crate::formats::shapes::figure;

    #[test]
    fn poses_rotate_without_distortion() {
        let mut random = Random::new(RngKey::new(0));
        for _ in 0..100 {
            let pose = Pose::random(&mut random);
            assert!((pose.cos * pose.cos + pose.sin * pose.sin - 1.0).abs() < 1e-6);
            assert!(pose.cos > 0.96); // the cosine of 16 degrees
        }
    }

    #[test]
    fn figures_contrast_with_the_background_and_are_equally_often_lighter_and_darker() {
        let seen = |image: &Image, y: usize, x: usize| {
            let byte = |channel| image.pixels()[(channel * SIZE + y) * SIZE + x];
            lightness(std::array::from_fn(|channel| {
                f32::from(byte(channel)) / 255.0
            }))
        };
        let mut lighter = 0;
        for number in 0..1000 {
            let image = draw(figure::disc, RngKey::new(1).fold_in(number)).unwrap();
            let difference = seen(&image, 15, 15) - seen(&image, 0, 0);
            assert!(difference.abs() > 0.02, "picture {number}: {difference}");
            lighter += u32::from(difference > 0.0);
        }
        assert!((440..560).contains(&lighter), "{lighter} of 1000");
    }
}
