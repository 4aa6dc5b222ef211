//! Kernels of resampling: weights by the distance from the centre, as in
//! `perceiver_data::PillowFilter`.

use std::f64::consts::PI;

use perceiver_data::PillowFilter;

use crate::onnx::graph::{Graph, Value};
use crate::onnx::proto::DataType;

/// A kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// A triangle of radius 1: linear interpolation.
    Triangle,
    /// Keys's cubic with `a = -0.5`, of radius 2.
    Cubic,
    /// The mean over an output pixel.
    Box,
    /// A sinc of radius 1 in a Hamming window.
    Hamming,
    /// A sinc of radius 3, windowed by a wider sinc.
    Lanczos,
}

impl Kernel {
    /// Returns the kernel of a filter; `None` for the one that averages nothing.
    pub(crate) fn of(filter: PillowFilter) -> Option<Self> {
        match filter {
            PillowFilter::Nearest => None,
            PillowFilter::Lanczos => Some(Self::Lanczos),
            PillowFilter::Bilinear => Some(Self::Triangle),
            PillowFilter::Bicubic => Some(Self::Cubic),
            PillowFilter::Box => Some(Self::Box),
            PillowFilter::Hamming => Some(Self::Hamming),
        }
    }

    /// Adds the weights at the distances `x`, of any shape: f32, and of 64 bits for [`Kernel::Box`].
    pub(crate) fn weights(self, graph: &mut Graph, x: &Value) -> Value {
        match self {
            Self::Triangle => triangle(graph, x),
            Self::Cubic => cubic(graph, x),
            Self::Box => boxcar(graph, x),
            Self::Hamming => hamming(graph, x),
            Self::Lanczos => lanczos(graph, x),
        }
    }
}

fn triangle(graph: &mut Graph, x: &Value) -> Value {
    let distance = graph.op("Abs", [x]);
    let one = graph.single(1.0);
    let height = graph.op("Sub", [&one, &distance]);
    graph.op("Relu", [&height])
}

fn cubic(graph: &mut Graph, x: &Value) -> Value {
    let distance = graph.op("Abs", [x]);
    let near = polynomial(graph, &distance, &[1.5, -2.5, 0.0, 1.0]);
    let far = polynomial(graph, &distance, &[-0.5, 2.5, -4.0, 2.0]);
    let (one, two, zero) = (graph.single(1.0), graph.single(2.0), graph.single(0.0));
    let is_far = graph.op("Less", [&distance, &two]);
    let outside = graph.op("Where", [&is_far, &far, &zero]);
    let is_near = graph.op("Less", [&distance, &one]);
    graph.op("Where", [&is_near, &near, &outside])
}

/// Adds a polynomial by its coefficients, the highest first.
fn polynomial(graph: &mut Graph, x: &Value, coefficients: &[f64]) -> Value {
    let mut sum = graph.single(coefficients[0]);
    for &coefficient in &coefficients[1..] {
        sum = graph.op("Mul", [&sum, x]);
        if coefficient != 0.0 {
            let coefficient = graph.single(coefficient);
            sum = graph.op("Add", [&sum, &coefficient]);
        }
    }
    sum
}

fn boxcar(graph: &mut Graph, x: &Value) -> Value {
    let (low, high) = (graph.double(-0.5), graph.double(0.5));
    let is_above = graph.op("Greater", [x, &low]);
    let is_below = graph.op("LessOrEqual", [x, &high]);
    let inside = graph.op("And", [&is_above, &is_below]);
    graph.cast(&inside, DataType::Float)
}

fn hamming(graph: &mut Graph, x: &Value) -> Value {
    let sinc = sinc(graph, x);
    let angle = graph.single(PI);
    let angle = graph.op("Mul", [x, &angle]);
    let cosine = graph.op("Cos", [&angle]);
    let (constant, amplitude) = (graph.single(0.54), graph.single(0.46));
    let window = graph.op("Mul", [&cosine, &amplitude]);
    let window = graph.op("Add", [&window, &constant]);
    let product = graph.op("Mul", [&sinc, &window]);
    let distance = graph.op("Abs", [x]);
    let (one, zero) = (graph.single(1.0), graph.single(0.0));
    let is_inside = graph.op("Less", [&distance, &one]);
    graph.op("Where", [&is_inside, &product, &zero])
}

fn lanczos(graph: &mut Graph, x: &Value) -> Value {
    let third = graph.single(1.0 / 3.0);
    let wide = graph.op("Mul", [x, &third]);
    let [narrow, wide] = [x, &wide].map(|x| sinc(graph, x));
    let product = graph.op("Mul", [&narrow, &wide]);
    let distance = graph.op("Abs", [x]);
    let (radius, zero) = (graph.single(3.0), graph.single(0.0));
    let is_inside = graph.op("Less", [&distance, &radius]);
    graph.op("Where", [&is_inside, &product, &zero])
}

/// Adds `sin(pi x) / (pi x)`, and 1 at 0.
fn sinc(graph: &mut Graph, x: &Value) -> Value {
    let (zero, one, pi) = (graph.single(0.0), graph.single(1.0), graph.single(PI));
    let is_centre = graph.op("Equal", [x, &zero]);
    let angle = graph.op("Mul", [x, &pi]);
    let angle = graph.op("Where", [&is_centre, &one, &angle]); // not 0 / 0
    let sine = graph.op("Sin", [&angle]);
    let quotient = graph.op("Div", [&sine, &angle]);
    graph.op("Where", [&is_centre, &one, &quotient])
}
