//! Convolutions of feature maps `[batch, channels, height, width]`.

use candle_core::Tensor;

use crate::error::Result;
use crate::onnx::attribute;
use crate::onnx::graph::{Graph, Value};
use crate::onnx::tensor::length;

/// Kernel side, stride, and zeros at every edge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) side: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

impl Window {
    /// Returns the options of `Conv` and `MaxPool`.
    pub(crate) fn attributes(self) -> Vec<crate::onnx::proto::AttributeProto> {
        let [side, stride, padding] = [self.side, self.stride, self.padding].map(length);
        vec![
            attribute::ints("kernel_shape", &[side; 2]),
            attribute::ints("strides", &[stride; 2]),
            attribute::ints("pads", &[padding; 4]),
        ]
    }
}

/// Adds the convolution `name` with a kernel `[outputs, channels, side, side]` and a bias.
pub(crate) fn conv(
    graph: &mut Graph,
    name: &str,
    window: Window,
    kernel: impl FnOnce() -> Result<Tensor>,
    bias: impl FnOnce() -> Result<Tensor>,
    x: &Value,
) -> Result<Value> {
    let kernel = graph.weight(&format!("{name}.weight"), kernel)?;
    let bias = graph.weight(&format!("{name}.bias"), bias)?;
    Ok(graph.scoped(name, |graph| {
        graph.node("Conv", [x, &kernel, &bias], window.attributes())
    }))
}

/// Converts the weight of a linear layer on windows, `[outputs, side * side * channels]` in the order
/// (row, column, channel), to a kernel.
pub(crate) fn kernel_of_rows(weight: &Tensor, side: usize) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let channels = inputs / (side * side);
    let kernel = weight.reshape((outputs, side, side, channels))?;
    Ok(kernel.permute((0, 3, 1, 2))?.contiguous()?)
}

/// Adds the change from a feature map to tokens, row by row:
/// `[batch, width, rows, columns] -> [batch, rows * columns, width]`.
pub(crate) fn tokens_of_map(graph: &mut Graph, map: &Value) -> Value {
    let flat = graph.reshape(map, &[0, 0, -1]);
    graph.transpose(&flat, &[0, 2, 1])
}
