//! Part of a network whose inner values are not kept for backward but computed again: memory for time.
//!
//! Chen et al., "Training deep nets with sublinear memory cost", 2016. The forward pass runs outside the graph and leaves its
//! output alone; backward runs it once more, inside a graph of its own, and differentiates that.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, Layout, MetalStorage, Result, Shape, Tensor, Var, bail,
};

/// `function(x, parameters)`, of which backward keeps nothing but the inputs.
///
/// Whatever gradients should reach has to be in `x` or `parameters`: tensors that the function brings along are constants.
/// It runs twice and must be the same both times, so dropout in it has to be keyed, as all of this crate's is.
///
/// ```
/// use candle_core::{Device, Var};
/// use perceiver_ops::recompute;
///
/// let (x, w) = (Var::new(&[3f32], &Device::Cpu)?, Var::new(&[5f32], &Device::Cpu)?);
/// let y = recompute(&x, &[w.as_tensor()], |x, parameters| x.sqr()? * &parameters[0])?;
/// assert_eq!(y.to_vec1::<f32>()?, [45.0]);
/// let gradients = y.backward()?;
/// assert_eq!(gradients.get(&x).unwrap().to_vec1::<f32>()?, [30.0]); // 2 x w
/// assert_eq!(gradients.get(&w).unwrap().to_vec1::<f32>()?, [9.0]); // x^2
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When the function fails, or the parameters are not all of one type on one device.
pub fn recompute(
    x: &Tensor,
    parameters: &[&Tensor],
    function: impl Fn(&Tensor, &[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    if parameters.is_empty() {
        bail!("recompute: expected at least one parameter, found none");
    }
    let constants: Vec<Tensor> = parameters.iter().map(|tensor| tensor.detach()).collect();
    let output = function(&x.detach(), &constants)?;
    if !x.track_op() && !parameters.iter().any(|tensor| tensor.track_op()) {
        return Ok(output);
    }
    // An operation of candle takes three tensors: the parameters come as one, and leave with their gradients as one.
    let flat: Vec<Tensor> = parameters
        .iter()
        .map(|tensor| tensor.flatten_all())
        .collect::<Result<_>>()?;
    let op = Recompute {
        shapes: parameters
            .iter()
            .map(|tensor| tensor.shape().clone())
            .collect(),
        function: Box::new(function),
    };
    x.apply_op3(&Tensor::cat(&flat, 0)?, &output.force_contiguous()?, op)
}

type Function = dyn Fn(&Tensor, &[Tensor]) -> Result<Tensor> + Send + Sync;

/// `(x, parameters, output) -> output`
struct Recompute {
    shapes: Vec<Shape>,
    function: Box<Function>,
}

impl CustomOp3 for Recompute {
    fn name(&self) -> &'static str {
        "recompute"
    }

    fn cpu_fwd(
        &self,
        _x: &CpuStorage,
        _x_layout: &Layout,
        _parameters: &CpuStorage,
        _parameters_layout: &Layout,
        output: &CpuStorage,
        layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((output.try_clone(layout)?, layout.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        _x: &CudaStorage,
        _x_layout: &Layout,
        _parameters: &CudaStorage,
        _parameters_layout: &Layout,
        output: &CudaStorage,
        layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        Ok((output.try_clone(layout)?, layout.shape().clone()))
    }

    fn metal_fwd(
        &self,
        _x: &MetalStorage,
        _x_layout: &Layout,
        _parameters: &MetalStorage,
        _parameters_layout: &Layout,
        output: &MetalStorage,
        layout: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        Ok((output.try_clone(layout)?, layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        parameters: &Tensor,
        _output: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let x = Var::from_tensor(&x.detach())?;
        let flat = parameters.detach();
        let mut variables = Vec::with_capacity(self.shapes.len());
        let mut start = 0;
        for shape in &self.shapes {
            let values = flat.narrow(0, start, shape.elem_count())?.reshape(shape)?;
            variables.push(Var::from_tensor(&values)?);
            start += shape.elem_count();
        }
        let tensors: Vec<Tensor> = variables.iter().map(|v| v.as_tensor().clone()).collect();
        let output = (self.function)(x.as_tensor(), &tensors)?;
        // The gradient of this sum is the output's, weighed by what it is worth to the loss.
        let gradients = (output * grad.detach())?.sum_all()?.backward()?;
        let of = |variable: &Var| match gradients.get(variable) {
            Some(gradient) => gradient.contiguous(),
            None => variable.zeros_like(), // the function does not use it
        };
        let flat: Vec<Tensor> = variables
            .iter()
            .map(|variable| of(variable)?.flatten_all())
            .collect::<Result<_>>()?;
        Ok((Some(of(&x)?), Some(Tensor::cat(&flat, 0)?), None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Key, Mode, dropout};
    use candle_core::Device;

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn gradients_are_those_of_the_function() {
        let x = Var::new(&[[1f32, -2.0], [0.5, 3.0]], &Device::Cpu).unwrap();
        let w = Var::new(&[[2f32, 0.1], [-1.0, 4.0]], &Device::Cpu).unwrap();
        let unused = Var::new(7f32, &Device::Cpu).unwrap();
        let mode = Mode::Training(Key::new(5));
        let function = move |x: &Tensor, parameters: &[Tensor]| {
            dropout(&x.matmul(&parameters[0])?.tanh()?, 0.4, mode)
        };
        let parameters = [w.as_tensor(), unused.as_tensor()];
        let again = recompute(x.as_tensor(), &parameters, function).unwrap();
        let plain = function(x.as_tensor(), &[w.as_tensor().clone()]).unwrap();
        assert_eq!(values(&again), values(&plain));
        // The loss weighs every output differently.
        let gradients = |y: &Tensor| {
            (y.sqr().unwrap() * y)
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
        };
        let (again, plain) = (gradients(&again).unwrap(), gradients(&plain).unwrap());
        for variable in [&x, &w] {
            let of =
                |store: &candle_core::backprop::GradStore| values(store.get(variable).unwrap());
            assert_eq!(of(&again), of(&plain));
        }
        assert_eq!(values(again.get(&unused).unwrap()), [0.0]);
    }

    #[test]
    fn without_parameters_it_is_refused() {
        let x = Tensor::new(1f32, &Device::Cpu).unwrap();
        let error = recompute(&x, &[], |x, _| x.sqr()).unwrap_err();
        assert!(error.to_string().contains("at least one parameter"));
    }
}
