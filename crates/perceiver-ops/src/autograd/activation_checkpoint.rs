//! Activation checkpointing: recomputes a part of the network in the backward pass instead of
//! keeping its activations.
//!
//! Chen et al., "Training deep nets with sublinear memory cost", 2016. The forward pass runs
//! outside the graph and keeps only its output; the backward pass runs it again inside a separate
//! graph and differentiates that.

use candle_core::{Result, Shape, Tensor, Var, bail};

use crate::Tape;
use crate::autograd::custom_function::{copied, with_backward};

/// Computes `function(x, parameters)` with activation checkpointing: the backward pass keeps only
/// the inputs.
///
/// Gradients reach only `x` and `parameters`: other tensors in the function are constants. The
/// function runs twice with the same result, so its dropout must be keyed, as everywhere in this
/// crate.
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
/// When the function fails, there are no parameters, or they are not all of one type on one device.
pub fn recompute(
    x: &Tensor,
    parameters: &[&Tensor],
    function: impl Fn(&Tensor, &[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    CheckpointedParameters::new(parameters)?.recompute(x, function)
}

/// Parameters of a function for several calls of [`recompute`] in one pass.
///
/// The backward pass keeps a copy of the parameters. Layers that are applied several times with the
/// same weights share it.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use perceiver_ops::CheckpointedParameters;
///
/// let (x, w) = (Var::new(&[3f32], &Device::Cpu)?, Var::new(&[5f32], &Device::Cpu)?);
/// let parameters = CheckpointedParameters::new(&[w.as_tensor()])?;
/// let product = |x: &Tensor| parameters.recompute(x, |x, parameters| x * &parameters[0]);
/// let y = product(&product(x.as_tensor())?)?; // x w^2
/// assert_eq!(y.to_vec1::<f32>()?, [75.0]);
/// let gradients = y.backward()?;
/// assert_eq!(gradients.get(&w).unwrap().to_vec1::<f32>()?, [30.0]); // 2 x w
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct CheckpointedParameters {
    /// The parameters outside any graph.
    constants: Vec<Tensor>,
    /// All values, if a gradient may be wanted. An operation of candle takes at most three tensors,
    /// so parameters and their gradients are each concatenated to one.
    flat: Option<Tensor>,
}

impl CheckpointedParameters {
    /// Prepares parameters for [`CheckpointedParameters::recompute`].
    ///
    /// # Errors
    /// When there are none, or they are not all of one type on one device.
    pub fn new(parameters: &[&Tensor]) -> Result<Self> {
        if parameters.is_empty() {
            bail!("recompute: expected at least one parameter, found none");
        }
        let are_tracked = parameters.iter().any(|tensor| tensor.track_op());
        Ok(Self {
            constants: parameters.iter().map(|tensor| tensor.detach()).collect(),
            flat: are_tracked
                .then(|| concatenated(parameters.iter().copied()))
                .transpose()?,
        })
    }

    /// Computes `function(x, parameters)` as [`recompute`] does.
    ///
    /// # Errors
    /// When the function fails.
    pub fn recompute(
        &self,
        x: &Tensor,
        function: impl Fn(&Tensor, &[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Result<Tensor> {
        let output = function(&x.detach(), &self.constants)?;
        let flat = match &self.flat {
            Some(flat) => flat.clone(),
            None if x.track_op() => concatenated(&self.constants)?,
            None => return Ok(output),
        };
        let shapes = self.constants.iter().map(|tensor| tensor.shape().clone());
        let shapes: Vec<Shape> = shapes.collect();
        let (inputs, values) = (x.detach(), flat.detach());
        with_backward([x, &flat, &flat], copied(&output)?, move |grad| {
            let [x, flat] = gradients(&inputs, &values, &shapes, &function, grad)?;
            Ok([Some(x), Some(flat), None])
        })
    }
}

/// Concatenates the values of all tensors.
fn concatenated<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<Tensor> {
    let flat: Vec<Tensor> = tensors
        .into_iter()
        .map(Tensor::flatten_all)
        .collect::<Result<_>>()?;
    Tensor::cat(&flat, 0)
}

/// Runs the function again inside a separate graph and differentiates it: returns the gradients of
/// `x` and of `flat`, all parameters concatenated.
fn gradients(
    x: &Tensor,
    flat: &Tensor,
    shapes: &[Shape],
    function: &impl Fn(&Tensor, &[Tensor]) -> Result<Tensor>,
    grad: &Tensor,
) -> Result<[Tensor; 2]> {
    let x = Var::from_tensor(x)?;
    let mut variables = Vec::with_capacity(shapes.len());
    let mut start = 0;
    for shape in shapes {
        let values = flat.narrow(0, start, shape.elem_count())?.reshape(shape)?;
        variables.push(Var::from_tensor(&values)?);
        start += shape.elem_count();
    }
    let tensors: Vec<Tensor> = variables.iter().map(|v| v.as_tensor().clone()).collect();
    let tape = Tape::start();
    let output = function(x.as_tensor(), &tensors)?;
    let gradients = tape.backward_from(&output, grad)?;
    let of = |variable: &Var| match gradients.get(variable) {
        Some(gradient) => gradient.contiguous(),
        None => variable.zeros_like(), // the function does not use it
    };
    let flat: Vec<Tensor> = variables
        .iter()
        .map(|variable| of(variable)?.flatten_all())
        .collect::<Result<_>>()?;
    Ok([of(&x)?, Tensor::cat(&flat, 0)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mode, RngKey, dropout};
    use candle_core::Device;

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn gradients_equal_those_of_the_function() {
        let x = Var::new(&[[1f32, -2.0], [0.5, 3.0]], &Device::Cpu).unwrap();
        let w = Var::new(&[[2f32, 0.1], [-1.0, 4.0]], &Device::Cpu).unwrap();
        let unused = Var::new(7f32, &Device::Cpu).unwrap();
        let mode = Mode::Training(RngKey::new(5));
        let function = move |x: &Tensor, parameters: &[Tensor]| {
            dropout(&x.matmul(&parameters[0])?.tanh()?, 0.4, mode)
        };
        let parameters = [w.as_tensor(), unused.as_tensor()];
        let again = recompute(x.as_tensor(), &parameters, function).unwrap();
        let plain = function(x.as_tensor(), &[w.as_tensor().clone()]).unwrap();
        assert_eq!(values(&again), values(&plain));
        // The loss weights every output differently.
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

    /// The function may return a view of another tensor.
    #[test]
    fn views_are_recomputed_with_their_layout() {
        let x = Var::new(&[[1f32, -2.0], [0.5, 3.0]], &Device::Cpu).unwrap();
        for function in [|x: &Tensor| x.t(), |x: &Tensor| x.narrow(0, 1, 1)] {
            let again = move |x: &Tensor, _: &[Tensor]| function(x);
            let again = recompute(x.as_tensor(), &[x.as_tensor()], again).unwrap();
            assert_eq!(values(&again), values(&function(&x).unwrap()));
        }
    }

    /// A layer that is applied twice gets the sum of both gradients, on either kind of graph.
    #[test]
    fn shared_parameters_sum_their_gradients() {
        let x = Var::new(&[[1f32, -2.0], [0.5, 3.0]], &Device::Cpu).unwrap();
        let w = Var::new(&[[2f32, 0.1], [-1.0, 0.5]], &Device::Cpu).unwrap();
        let function = |x: &Tensor, parameters: &[Tensor]| x.matmul(&parameters[0])?.tanh();
        let shared = || CheckpointedParameters::new(&[w.as_tensor()]).unwrap();
        let twice = |parameters: &CheckpointedParameters| {
            let y = parameters.recompute(x.as_tensor(), function).unwrap();
            parameters.recompute(&y, function).unwrap()
        };
        let weights = [w.as_tensor().clone()];
        let plain = function(&function(&x, &weights).unwrap(), &weights).unwrap();
        let again = twice(&shared());
        assert_eq!(values(&again), values(&plain));
        let loss = |y: &Tensor| y.sqr().unwrap().sum_all().unwrap();
        let tape = Tape::start();
        let recorded = tape.backward(&loss(&twice(&shared()))).unwrap();
        let [again, plain] = [again, plain].map(|y| loss(&y).backward().unwrap());
        for variable in [&x, &w] {
            let expected = values(plain.get(variable).unwrap());
            assert_eq!(values(again.get(variable).unwrap()), expected);
            assert_eq!(values(recorded.get(variable).unwrap()), expected);
        }
    }

    /// Constants have no gradient, but what they are applied to has.
    #[test]
    fn constant_parameters_pass_gradients_on() {
        let x = Var::new(&[3f32], &Device::Cpu).unwrap();
        let w = Tensor::new(&[5f32], &Device::Cpu).unwrap();
        let product = |x: &Tensor, parameters: &[Tensor]| x * &parameters[0];
        let y = recompute(x.as_tensor(), &[&w], product).unwrap();
        let gradients = y.backward().unwrap();
        assert_eq!(values(gradients.get(&x).unwrap()), [5.0]);
        let y = recompute(&x.detach(), &[&w], product).unwrap();
        assert!(!y.track_op());
    }

    #[test]
    fn recomputation_without_parameters_is_rejected() {
        let x = Tensor::new(1f32, &Device::Cpu).unwrap();
        let error = recompute(&x, &[], |x, _| x.sqr()).unwrap_err();
        assert!(error.to_string().contains("at least one parameter"));
    }
}
