//! Backgrounds: a gradient with clutter of less contrast than the figure.

use super::SIZE;
use super::colour::{Colour, any_of_lightness, mix, with_lightness};
use super::figure::{Point, at};
use super::random::Random;

/// A colour that changes linearly across the image.
pub(super) struct Gradient {
    from: Colour,
    to: Colour,
    /// The change per pixel to the right and down, as a share of the way between the colours.
    slope: Point,
}

impl Gradient {
    /// Draws two colours of one hue whose lightness is within `spread` of `lightness`.
    pub(super) fn random(random: &mut Random, lightness: f32, spread: f32) -> Self {
        let from = any_of_lightness(random, lightness);
        Self {
            from,
            to: with_lightness(from, lightness + random.within(-spread, spread)),
            slope: at(
                random.within(-1.0, 1.0) / SIZE as f32,
                random.within(-1.0, 1.0) / SIZE as f32,
            ),
        }
    }

    pub(super) fn colour(&self, p: Point) -> Colour {
        let middle = SIZE as f32 / 2.0;
        let way = 0.5 + self.slope.x * (p.x - middle) + self.slope.y * (p.y - middle);
        mix(self.from, self.to, way.clamp(0.0, 1.0))
    }
}

/// A gradient with faint blobs and lines.
pub(super) struct Background {
    gradient: Gradient,
    blobs: [Blob; 3],
    lines: [Line; 2],
}

impl Background {
    pub(super) fn random(random: &mut Random, lightness: f32) -> Self {
        Self {
            gradient: Gradient::random(random, lightness, 0.1),
            blobs: std::array::from_fn(|_| Blob::random(random, lightness)),
            lines: std::array::from_fn(|_| Line::random(random, lightness)),
        }
    }

    pub(super) fn colour(&self, p: Point) -> Colour {
        let blobs = self
            .blobs
            .iter()
            .map(|blob| (blob.colour, blob.strength(p)));
        let lines = self
            .lines
            .iter()
            .map(|line| (line.colour, line.strength(p)));
        blobs
            .chain(lines)
            .fold(self.gradient.colour(p), |under, (colour, strength)| {
                mix(under, colour, strength)
            })
    }
}

/// A soft round spot.
struct Blob {
    colour: Colour,
    centre: Point,
    radius: f32,
}

impl Blob {
    fn random(random: &mut Random, lightness: f32) -> Self {
        Self {
            colour: faint(random, lightness),
            centre: random_point(random),
            radius: random.within(4.0, 10.0),
        }
    }

    fn strength(&self, p: Point) -> f32 {
        let off = at(p.x - self.centre.x, p.y - self.centre.y).norm() / self.radius;
        0.7 * (1.0 - off * off).max(0.0)
    }
}

/// A soft straight line across the image.
struct Line {
    colour: Colour,
    through: Point,
    normal: Point,
    half_width: f32,
}

impl Line {
    fn random(random: &mut Random, lightness: f32) -> Self {
        let through = random_point(random);
        let towards = at(random.within(-1.0, 1.0), random.within(-1.0, 1.0));
        let length = towards.norm().max(0.01);
        Self {
            colour: faint(random, lightness),
            through,
            normal: at(towards.x / length, towards.y / length),
            half_width: random.within(0.6, 1.4),
        }
    }

    fn strength(&self, p: Point) -> f32 {
        let off = (p.x - self.through.x) * self.normal.x + (p.y - self.through.y) * self.normal.y;
        0.6 * (self.half_width + 0.5 - off.abs()).clamp(0.0, 1.0)
    }
}

/// Draws a colour of low contrast to a background of this lightness.
fn faint(random: &mut Random, lightness: f32) -> Colour {
    let change = random.within(-0.12, 0.12);
    any_of_lightness(random, lightness + change)
}

/// Draws a point of the image.
fn random_point(random: &mut Random) -> Point {
    at(
        random.within(0.0, SIZE as f32),
        random.within(0.0, SIZE as f32),
    )
}
