//! Outlines of the figures as signed distances: negative inside, positive outside, with a slope of
//! about 1 near the outline, as anti-aliasing requires.
//!
//! A figure lies in the unit disc or slightly beyond it, `x` to the right and `y` down. The classic
//! formulas are from Inigo Quilez's "2D distance functions",
//! <https://iquilezles.org/articles/distfunctions2d/>. Sines and cosines appear as constants only,
//! since libraries of different platforms disagree about their last bits.

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

/// A function from a point to its signed distance from a figure's outline.
pub(super) type Figure = fn(Point) -> f32;

/// A point, or a vector, of the plane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) x: f32,
    pub(super) y: f32,
}

/// Creates the point `(x, y)`.
pub(super) const fn at(x: f32, y: f32) -> Point {
    Point { x, y }
}

impl Point {
    fn minus(self, other: Self) -> Self {
        at(self.x - other.x, self.y - other.y)
    }

    fn dot(self, other: Self) -> f32 {
        self.x * other.x + self.y * other.y
    }

    /// Returns the distance from the origin.
    pub(super) fn norm(self) -> f32 {
        self.dot(self).sqrt()
    }
}

// Round.

pub(super) fn disc(p: Point) -> f32 {
    circle(p, at(0.0, 0.0), 0.95)
}

pub(super) fn ring(p: Point) -> f32 {
    band(p.norm(), 0.76, 0.38)
}

pub(super) fn crescent(p: Point) -> f32 {
    let moon = circle(p, at(0.15, 0.0), 1.0);
    let bite = circle(p, at(0.62, 0.0), 0.82);
    moon.max(-bite)
}

pub(super) fn oval(p: Point) -> f32 {
    ellipse(p, at(1.0, 0.46))
}

// Polygons.

pub(super) fn triangle(p: Point) -> f32 {
    polygon(p, &[at(0.0, -1.0), at(1.0, 0.75), at(-1.0, 0.75)])
}

pub(super) fn square(p: Point) -> f32 {
    rectangle(p, at(0.0, 0.0), at(0.8, 0.8))
}

pub(super) fn diamond(p: Point) -> f32 {
    polygon(
        p,
        &[at(0.0, -1.05), at(0.66, 0.0), at(0.0, 1.05), at(-0.66, 0.0)],
    )
}

/// A star with five points of radius 1.05 and five notches of radius 0.42.
pub(super) fn star(p: Point) -> f32 {
    #[rustfmt::skip]
    const OUTLINE: [Point; 10] = [
        at(0.0, -1.05), at(0.2469, -0.3398),
        at(0.9986, -0.3245), at(0.3994, 0.1298),
        at(0.6172, 0.8495), at(0.0, 0.42),
        at(-0.6172, 0.8495), at(-0.3994, 0.1298),
        at(-0.9986, -0.3245), at(-0.2469, -0.3398),
    ];
    polygon(p, &OUTLINE)
}

// Signs.

pub(super) fn plus(p: Point) -> f32 {
    let horizontal = rectangle(p, at(0.0, 0.0), at(0.95, 0.22));
    let vertical = rectangle(p, at(0.0, 0.0), at(0.22, 0.95));
    horizontal.min(vertical)
}

/// A plus rotated by 45 degrees.
pub(super) fn cross(p: Point) -> f32 {
    plus(at((p.x + p.y) * FRAC_1_SQRT_2, (p.y - p.x) * FRAC_1_SQRT_2))
}

pub(super) fn arrow(p: Point) -> f32 {
    #[rustfmt::skip]
    const OUTLINE: [Point; 7] = [
        at(1.05, 0.0), at(0.25, 0.75), at(0.25, 0.24), at(-1.0, 0.24),
        at(-1.0, -0.24), at(0.25, -0.24), at(0.25, -0.75),
    ];
    polygon(p, &OUTLINE)
}

pub(super) fn chevron(p: Point) -> f32 {
    #[rustfmt::skip]
    const OUTLINE: [Point; 6] = [
        at(0.0, -0.75), at(1.0, 0.25), at(1.0, 0.8),
        at(0.0, -0.15), at(-1.0, 0.8), at(-1.0, 0.25),
    ];
    polygon(p, &OUTLINE)
}

// Patterns.

/// Three bars.
pub(super) fn stripes(p: Point) -> f32 {
    let bars = band(nearest_of_three(p.y, 0.72), 0.0, 0.36);
    bars.max(p.x.abs() - 0.9)
}

/// Four by four cells, alternately filled.
pub(super) fn checkerboard(p: Point) -> f32 {
    const CELL: f32 = 0.46;
    // Only lines inside the board count: its border is the rectangle's.
    let edge = nearest_of_three(p.x, CELL)
        .abs()
        .min(nearest_of_three(p.y, CELL).abs());
    let cell = |v: f32| (v / CELL).floor().clamp(-2.0, 1.0);
    let filled = (cell(p.x) + cell(p.y)) % 2.0 == 0.0;
    let board = rectangle(p, at(0.0, 0.0), at(2.0 * CELL, 2.0 * CELL));
    board.max(if filled { -edge } else { edge })
}

/// Three by three discs.
pub(super) fn dots(p: Point) -> f32 {
    let nearest = at(nearest_of_three(p.x, 0.68), nearest_of_three(p.y, 0.68));
    circle(nearest, at(0.0, 0.0), 0.24)
}

/// A ring around a disc.
pub(super) fn target(p: Point) -> f32 {
    let radius = p.norm();
    band(radius, 0.85, 0.3).min(radius - 0.36)
}

// Objects.

/// Two discs over a square on its corner, moved and scaled from the unit in which the formula is
/// simplest.
pub(super) fn heart(p: Point) -> f32 {
    const SCALE: f32 = 0.6;
    let q = at(p.x.abs() * SCALE, 0.55 - p.y * SCALE);
    let distance = if q.x + q.y > 1.0 {
        q.minus(at(0.25, 0.75)).norm() - SQRT_2 / 4.0
    } else {
        let along_side = 0.5 * (q.x + q.y).max(0.0);
        let to_notch = q.minus(at(0.0, 1.0)).norm();
        let to_side = q.minus(at(along_side, along_side)).norm();
        to_notch.min(to_side) * (q.x - q.y).signum()
    };
    distance / SCALE
}

/// Walls and roof with a door.
pub(super) fn house(p: Point) -> f32 {
    #[rustfmt::skip]
    const OUTLINE: [Point; 7] = [
        at(0.0, -1.0), at(1.0, -0.1), at(0.72, -0.1), at(0.72, 0.9),
        at(-0.72, 0.9), at(-0.72, -0.1), at(-1.0, -0.1),
    ];
    let door = rectangle(p, at(0.0, 0.62), at(0.24, 0.42));
    polygon(p, &OUTLINE).max(-door)
}

/// A fir: two tiers of branches on a trunk.
pub(super) fn tree(p: Point) -> f32 {
    #[rustfmt::skip]
    const OUTLINE: [Point; 11] = [
        at(0.0, -1.05), at(0.6, -0.15), at(0.3, -0.15), at(0.8, 0.6), at(0.17, 0.6), at(0.17, 1.05),
        at(-0.17, 1.05), at(-0.17, 0.6), at(-0.8, 0.6), at(-0.3, -0.15), at(-0.6, -0.15),
    ];
    polygon(p, &OUTLINE)
}

/// An oval body, a tail and an eye.
pub(super) fn fish(p: Point) -> f32 {
    let body = ellipse(p.minus(at(0.25, 0.0)), at(0.8, 0.5));
    let tail = polygon(p, &[at(-0.3, 0.0), at(-1.05, 0.6), at(-1.05, -0.6)]);
    let eye = circle(p, at(0.62, -0.12), 0.12);
    body.min(tail).max(-eye)
}

// Building blocks.

fn circle(p: Point, centre: Point, radius: f32) -> f32 {
    p.minus(centre).norm() - radius
}

/// Returns the distance to a band of this thickness around `middle`, given a distance `d`.
fn band(d: f32, middle: f32, thickness: f32) -> f32 {
    (d - middle).abs() - thickness / 2.0
}

/// The distance to a rectangle: exact inside and beside it, slightly too short beyond its corners,
/// which is invisible.
fn rectangle(p: Point, centre: Point, half: Point) -> f32 {
    let q = p.minus(centre);
    (q.x.abs() - half.x).max(q.y.abs() - half.y)
}

/// The first-order distance to an ellipse around the origin: its implicit function over the length
/// of its gradient.
fn ellipse(p: Point, radii: Point) -> f32 {
    let unit = at(p.x / radii.x, p.y / radii.y);
    let gradient = at(unit.x / radii.x, unit.y / radii.y);
    unit.norm() * (unit.norm() - 1.0) / gradient.norm().max(f32::EPSILON)
}

/// The distance to the nearest edge, negative if a ray from the point crosses the outline an odd
/// number of times.
fn polygon(p: Point, outline: &[Point]) -> f32 {
    let mut squared = f32::INFINITY;
    let mut inside = false;
    let ends = outline.iter().cycle().skip(1);
    for (&start, &end) in outline.iter().zip(ends) {
        let (edge, to_p) = (end.minus(start), p.minus(start));
        let along = (to_p.dot(edge) / edge.dot(edge)).clamp(0.0, 1.0);
        let off = to_p.minus(at(edge.x * along, edge.y * along));
        squared = squared.min(off.dot(off));

        let crosses = (start.y > p.y) != (end.y > p.y);
        inside ^= crosses && p.x < start.x + edge.x * (p.y - start.y) / edge.y;
    }
    if inside {
        -squared.sqrt()
    } else {
        squared.sqrt()
    }
}

/// Returns the offset of `v` from the nearest of `-spacing`, `0` and `spacing`.
fn nearest_of_three(v: f32, spacing: f32) -> f32 {
    v - spacing * (v / spacing).round().clamp(-1.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_to_simple_figures_are_euclidean() {
        assert!((disc(at(3.0, 4.0)) - 4.05).abs() < 1e-6);
        assert!((square(at(1.3, 0.0)) - 0.5).abs() < 1e-6);
        // A right triangle with legs along the axes.
        let corner = [at(0.0, 0.0), at(4.0, 0.0), at(0.0, 3.0)];
        assert!((polygon(at(-3.0, -4.0), &corner) - 5.0).abs() < 1e-6);
        assert!((polygon(at(1.0, 1.0), &corner) + 1.0).abs() < 1e-6);
        assert!((polygon(at(2.0, -2.0), &corner) - 2.0).abs() < 1e-6);
    }

    #[test]
    fn the_checkerboard_has_empty_and_filled_corners() {
        assert!(checkerboard(at(-0.7, -0.7)) < 0.0);
        assert!(checkerboard(at(0.7, -0.7)) > 0.1);
        // There is no half-covered seam along the border of an empty cell.
        assert!(checkerboard(at(0.92, -0.7)) > 0.1);
    }

    #[test]
    fn symmetric_figures_equal_their_mirror_images() {
        // Poses are mirrored, so a figure must be its own mirror image or look the same facing
        // either way; these are their own mirror images.
        for figure in [triangle, star, plus, cross, chevron, heart, house, tree] {
            for step in 0..100 {
                let p = at(
                    (step % 10) as f32 / 5.0 - 0.9,
                    (step / 10) as f32 / 5.0 - 0.9,
                );
                assert!((figure(p) - figure(at(-p.x, p.y))).abs() < 1e-5);
            }
        }
    }
}
