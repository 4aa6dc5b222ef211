//! A gradient tape that accumulates into the first gradient instead of into zeros.
//!
//! candle's backward pass allocates zeros for the gradient of every tensor and adds the first
//! contribution to them: per tensor, two more kernel launches, one more allocation and four more
//! passes through its memory. In a step of the Keras example's model that is more than half of all
//! kernels. Here the first contribution is the gradient.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::backprop::GradStore;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Layout, MetalStorage, Result, Shape, Tensor,
    TensorId,
};

use crate::cuda::has_kernels;
use crate::half_precision::added;
use crate::optim::multi_tensor::add_all;

thread_local! {
    /// The tapes of this thread, the innermost last. A tape in its backward pass leaves its place
    /// empty, so nothing is recorded then.
    static TAPES: RefCell<Vec<Option<Records>>> = const { RefCell::new(Vec::new()) };
}

/// A gradient tape that records the operations of this thread.
///
/// Operations of this crate are recorded on it and return their outputs as variables, where
/// candle's own backward pass would stop. candle's operations stay in its graph and are
/// differentiated there, section by section.
///
/// ```
/// use candle_core::{Device, Var};
/// use perceiver_ops::{Tape, softmax};
///
/// let logits = Var::new(&[[0f32, 0.0]], &Device::Cpu)?;
/// let tape = Tape::start();
/// let first = softmax(&logits)?.narrow(1, 0, 1)?.sum_all()?;
/// let gradients = tape.backward(&first)?;
/// assert_eq!(gradients.get(&logits).unwrap().to_vec2::<f32>()?, [[0.25, -0.25]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Tape {
    index: usize,
    /// Binds the tape to its thread.
    thread: PhantomData<*const ()>,
}

/// A function from an operation's output gradient to the optional gradients of its inputs.
pub(crate) type Backward = dyn FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>>;

/// The recorded operations, in order.
#[derive(Default)]
struct Records {
    entries: Vec<Entry>,
    /// Tensors with an entry.
    known: HashSet<TensorId>,
}

enum Entry {
    Recorded {
        output: TensorId,
        inputs: Vec<Tensor>,
        backward: Box<Backward>,
    },
    /// Computed in candle's graph, before the first recorded operation that uses it.
    Native(Tensor),
}

impl Tape {
    /// Starts to record this thread's operations, until the tape is dropped. The innermost tape
    /// records.
    pub fn start() -> Self {
        let index = TAPES.with_borrow_mut(|tapes| {
            tapes.push(Some(Records::default()));
            tapes.len() - 1
        });
        Self {
            index,
            thread: PhantomData,
        }
    }

    /// Computes the gradients of the sum of `y`, usually a loss, with respect to all variables, as
    /// `y.backward()` would without a tape. Each is contiguous and in memory of its own.
    ///
    /// # Errors
    /// When an operation has no backward pass or the device is out of memory.
    pub fn backward(self, y: &Tensor) -> Result<GradStore> {
        if y.is_variable() {
            return self.backward_from(y, &y.ones_like()?);
        }
        let mut records = self.take();
        let mut gradients = records.gradients();
        gradients.add_all(&y.backward()?)?;
        records.run_backward(gradients)
    }

    /// Runs the backward pass with a given gradient of `y`, of its shape.
    pub(crate) fn backward_from(self, y: &Tensor, gradient: &Tensor) -> Result<GradStore> {
        let mut records = self.take();
        let mut gradients = records.gradients();
        if y.is_variable() {
            gradients.add(y.id(), gradient)?;
        } else {
            let pass = y.apply_op1(Seed(gradient.clone()))?.backward()?;
            gradients.add_all(&pass)?;
        }
        records.run_backward(gradients)
    }

    /// Takes the recorded operations; nothing more is recorded until the tape is dropped.
    fn take(&self) -> Records {
        let records = TAPES.with_borrow_mut(|tapes| tapes.get_mut(self.index)?.take());
        records.unwrap_or_default()
    }
}

impl Records {
    /// Creates an empty gradient store for the recorded operations.
    fn gradients(&mut self) -> Gradients {
        Gradients {
            known: std::mem::take(&mut self.known),
            ..Gradients::default()
        }
    }

    /// Runs the backward pass from the last entry to the first.
    fn run_backward(mut self, mut gradients: Gradients) -> Result<GradStore> {
        while let Some(entry) = self.entries.pop() {
            entry.run_backward(&mut gradients)?;
        }
        gradients.finished()
    }
}

impl Entry {
    /// Replaces the gradient of the output, if it has one, by those of the inputs.
    fn run_backward(self, gradients: &mut Gradients) -> Result<()> {
        match self {
            Self::Recorded {
                output,
                inputs,
                backward,
            } => {
                let Some(gradient) = gradients.by_id.remove(&output) else {
                    return Ok(());
                };
                for (input, share) in inputs.iter().zip(backward(&gradient)?) {
                    if let Some(share) = share.filter(|_| input.track_op()) {
                        gradients.add(input.id(), &share)?;
                    }
                }
            }
            Self::Native(tensor) => {
                if let Some(gradient) = gradients.by_id.remove(&tensor.id()) {
                    let pass = tensor.apply_op1(Seed(gradient))?.backward()?;
                    gradients.add_all(&pass)?;
                }
            }
        }
        Ok(())
    }
}

/// The gradients so far.
#[derive(Default)]
struct Gradients {
    by_id: HashMap<TensorId, Tensor>,
    /// Pending contributions to gradients that nothing needs before the end: those of weights used
    /// more than once. A GPU adds all of them in one kernel launch.
    later: Vec<(TensorId, Tensor)>,
    /// Tensors with an entry, whose gradients are needed earlier.
    known: HashSet<TensorId>,
}

impl Gradients {
    fn add(&mut self, id: TensorId, share: &Tensor) -> Result<()> {
        let sum = match self.by_id.get(&id) {
            None => share.detach(),
            Some(_) if has_kernels(share) && !self.known.contains(&id) => {
                self.later.push((id, share.contiguous()?.detach()));
                return Ok(());
            }
            Some(sum) => added(sum, share)?,
        };
        self.by_id.insert(id, sum);
        Ok(())
    }

    /// Returns all gradients, each in memory of its own.
    fn finished(mut self) -> Result<GradStore> {
        let mut taken: HashSet<_> = self
            .later
            .iter()
            .map(|(_, share)| memory_of(share))
            .collect();
        for gradient in self.by_id.values_mut() {
            *gradient = gradient.contiguous()?;
            if !taken.insert(memory_of(gradient)) {
                *gradient = gradient.copy()?; // a sum, for one, passes it to both terms
            }
        }
        while !self.later.is_empty() {
            let mut seen = HashSet::new();
            let (now, later) = self.later.into_iter().partition(|(id, _)| seen.insert(*id));
            let now: Vec<(TensorId, Tensor)> = now;
            let pairs = now.iter().map(|(id, share)| (&self.by_id[id], share));
            add_all(&pairs.collect::<Vec<_>>())?;
            self.later = later;
        }
        let mut store = GradStore::default();
        for (id, gradient) in self.by_id {
            store.insert_id(id, gradient);
        }
        Ok(store)
    }

    fn add_all(&mut self, shares: &GradStore) -> Result<()> {
        for id in shares.get_ids() {
            if let Some(share) = shares.get_id(*id) {
                self.add(*id, share)?;
            }
        }
        Ok(())
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        TAPES.with_borrow_mut(|tapes| tapes.truncate(self.index));
    }
}

/// Returns whether an operation on these inputs must be recorded.
pub(crate) fn is_recording(inputs: &[&Tensor]) -> bool {
    inputs.iter().any(|input| input.track_op())
        && TAPES.with_borrow(|tapes| matches!(tapes.last(), Some(Some(_))))
}

/// Records an operation, if [`is_recording`] says so. The output must be a variable, or known to
/// candle's graph as computed from the inputs.
pub(crate) fn record(
    inputs: &[&Tensor],
    output: &Tensor,
    backward: impl FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>> + 'static,
) {
    TAPES.with_borrow_mut(|tapes| {
        let Some(Some(records)) = tapes.last_mut() else {
            return;
        };
        for input in inputs {
            let is_native = input.track_op() && !input.is_variable();
            if is_native && records.known.insert(input.id()) {
                records.entries.push(Entry::Native((*input).clone()));
            }
        }
        records.known.insert(output.id());
        records.entries.push(Entry::Recorded {
            output: output.id(),
            inputs: inputs.iter().map(|input| (*input).clone()).collect(),
            backward: Box::new(backward),
        });
    });
}

/// Returns an identifier that tensors share while they share memory.
fn memory_of(tensor: &Tensor) -> usize {
    let (storage, _) = tensor.storage_and_layout();
    std::ptr::from_ref(&*storage).addr()
}

/// A dummy scalar with which candle's backward pass starts from a given gradient.
struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, x: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = Shape::from(());
        Ok((x.device().zeros_impl(&shape, DType::F32)?, shape))
    }

    fn cuda_fwd(&self, x: &CudaStorage, _layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let shape = Shape::from(());
        Ok((x.device().zeros_impl(&shape, DType::F32)?, shape))
    }

    fn metal_fwd(&self, x: &MetalStorage, _layout: &Layout) -> Result<(MetalStorage, Shape)> {
        let shape = Shape::from(());
        Ok((x.device().zeros_impl(&shape, DType::F32)?, shape))
    }

    fn bwd(&self, _x: &Tensor, _output: &Tensor, _grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Mode, RngKey, add_bias, add_dropout, dropout, ema_update, gelu, layer_norm, linear, softmax,
    };
    use candle_core::{Device, Var};

    fn variable(seed: u64, shape: &[usize]) -> Var {
        let values = (0..shape.iter().product::<usize>() as u64)
            .map(|i| (RngKey::new(seed).bits(i) >> 40) as f32 / 8_388_608.0 - 1.0)
            .collect::<Vec<_>>();
        Var::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// A loss that mixes operations of this crate and of candle, with variables used twice, views
    /// and an unused variable.
    fn loss([x, weight, bias, unused]: [&Tensor; 4]) -> Result<Tensor> {
        let first = linear(&x.narrow(1, 0, 4)?.sqr()?, &weight.t()?, bias)?;
        let second = gelu(&(&first * 2.0)?)?;
        let _ = softmax(&unused.mul(&second)?)?;
        let third = layer_norm(&(&first + &second)?, bias, bias, 1e-3)?;
        let fourth = dropout(&third, 0.3, Mode::Training(RngKey::new(1)))?;
        let last = softmax(&add_bias(&fourth.reshape((3, 2, 4))?, bias)?)?;
        (last * second.reshape((3, 2, 4))?)?.sum_all()
    }

    fn variables() -> [Var; 4] {
        let shapes: [&[usize]; 4] = [&[6, 5], &[4, 4], &[4], &[6, 4]];
        let mut seed = 0;
        shapes.map(|shape| {
            seed += 1;
            variable(seed, shape)
        })
    }

    #[test]
    fn gradients_equal_candles_backward() {
        let variables = variables();
        let tensors = variables.each_ref().map(Var::as_tensor);
        let expected = loss(tensors).unwrap().backward().unwrap();
        let tape = Tape::start();
        let loss = loss(tensors).unwrap();
        // Recorded operations are not in candle's graph.
        assert!(loss.backward().unwrap().get(&variables[0]).is_none());
        let actual = tape.backward(&loss).unwrap();
        for variable in &variables[..3] {
            let [actual, expected] =
                [&actual, &expected].map(|all| values(all.get(variable).unwrap()));
            assert_eq!(actual.len(), expected.len());
            for (actual, expected) in actual.iter().zip(expected) {
                assert!((actual - expected).abs() < 1e-5, "{actual} for {expected}");
            }
        }
        assert_eq!(actual.get_ids().count(), 3);
    }

    #[test]
    fn only_the_innermost_tape_records_and_none_during_backward() {
        let x = variable(1, &[2, 3]);
        let outer = Tape::start();
        let first = gelu(&x).unwrap();
        let inner = Tape::start();
        let second = softmax(&x).unwrap().sqr().unwrap();
        assert_eq!(inner.backward(&second).unwrap().get_ids().count(), 1);
        let weighed = outer.backward(&first).unwrap();
        let expected = gelu(&x).unwrap().backward().unwrap();
        let [actual, expected] = [weighed, expected].map(|all| values(all.get(&x).unwrap()));
        assert_eq!(actual, expected);
        assert!(!is_recording(&[x.as_tensor()]));
    }

    #[test]
    fn gradients_do_not_share_storage() {
        let [a, b] = [1, 2].map(|seed| variable(seed, &[2, 3]));
        let tape = Tape::start();
        let sum = add_dropout(&a, &b, 0.0, Mode::Inference).unwrap();
        let gradients = tape.backward(&sum).unwrap();
        let [of_a, of_b] = [&a, &b].map(|variable| gradients.get(variable).unwrap());
        ema_update(of_a, &of_a.zeros_like().unwrap(), 0.5).unwrap();
        assert_eq!(values(of_a), [0.5; 6]);
        assert_eq!(values(of_b), [1.0; 6]);
    }

    /// candle differentiates a loss from before the tape.
    #[test]
    fn unrecorded_ops_are_differentiated_too() {
        let x = variable(1, &[2, 3]);
        let loss = gelu(&x).unwrap().sqr().unwrap().sum_all().unwrap();
        let expected = values(loss.backward().unwrap().get(&x).unwrap());
        let actual = Tape::start().backward(&loss).unwrap();
        assert_eq!(values(actual.get(&x).unwrap()), expected);
    }
}
