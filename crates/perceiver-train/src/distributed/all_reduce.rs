//! All-reduce of gradients in buckets, overlapped with the backward pass.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread;

use candle_core::{DType, Tensor};
use perceiver_model::Parameters;

use crate::distributed::Communicator;
use crate::distributed::gradient_hook::NamedGradient;
use crate::error::{Result, TrainError};
use crate::optim::gradients::Gradients;

/// The size of a bucket in values, unless a single parameter is larger: 8 MiB, enough for a
/// network's full bandwidth.
const BUCKET: usize = 1 << 21;

/// The time at which a rank's gradients become available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// One after another, with time for other work in between.
    OneByOne,
    /// All at the end.
    Together,
    /// Never: the rank's part of the batch is empty.
    Never,
}

/// The all-reduce of gradients between ranks.
pub(crate) struct GradientAllReduce {
    ranks: Arc<dyn Communicator>,
    /// Parameter names in the order in which rank 0 computes their gradients, the same on all
    /// ranks; unset before the first batch that gives rank 0 gradients.
    order: OnceLock<Vec<String>>,
}

impl GradientAllReduce {
    pub(crate) fn new(ranks: Arc<dyn Communicator>) -> Self {
        let order = OnceLock::new();
        Self { ranks, order }
    }

    /// Sums over all ranks the gradients that `compute` sends. They may come in any order, at the
    /// times given by this rank's `arrival`; gradients that never arrive count as zeros. All ranks
    /// have to call this.
    ///
    /// # Errors
    /// Those of `compute`; when a gradient is missing, a rank has gone, or candle refuses an
    /// operation.
    pub(crate) fn summed<T>(
        &self,
        arrival: Arrival,
        parameters: &Parameters,
        compute: impl FnOnce(&Sender<NamedGradient>) -> Result<T>,
    ) -> Result<(T, Gradients)> {
        let (sender, arrivals) = channel();
        if self.ranks.size() == 1 {
            let result = compute(&sender)?;
            drop(sender);
            return Ok((result, Gradients::from_tensors(arrivals)));
        }
        let buckets = &self.buckets(parameters);
        let sum = move || self.sum(buckets, arrival, parameters, &arrivals);
        let (result, sums) = if arrival == Arrival::OneByOne {
            thread::scope(|scope| {
                let others = scope.spawn(sum);
                let result = compute(&sender);
                drop(sender);
                let sums = others.join();
                (result, sums.unwrap_or_else(|panic| resume_unwind(panic)))
            })
        } else {
            let result = compute(&sender);
            drop(sender);
            (result, sum())
        };
        let (result, (sums, order)) = (result?, sums?);
        if self.order.get().is_none() {
            self.adopt_order(&order)?;
        }
        Ok((result, sums))
    }

    /// Divides the names into buckets, in the order in which gradients are computed, if known:
    /// early buckets are sent early.
    fn buckets(&self, parameters: &Parameters) -> Vec<Vec<String>> {
        let sorted = || {
            parameters
                .iter()
                .map(|(name, _)| name.to_string())
                .collect()
        };
        let names = self.order.get().cloned().unwrap_or_else(sorted);
        let (mut buckets, mut room) = (Vec::<Vec<String>>::new(), 0);
        for name in names {
            let count = parameters
                .get(&name)
                .map_or(0, |variable| variable.elem_count());
            if let Some(bucket) = buckets.last_mut().filter(|_| count <= room) {
                bucket.push(name);
            } else {
                buckets.push(vec![name]);
                room = BUCKET;
            }
            room = room.saturating_sub(count);
        }
        buckets
    }

    /// Takes over the order of rank 0.
    fn adopt_order(&self, order: &[String]) -> Result<()> {
        let mut names = order.join("\n").into_bytes();
        self.ranks.broadcast(0, &mut names)?;
        if names.is_empty() {
            return Ok(()); // rank 0's part was empty
        }
        let names = String::from_utf8_lossy(&names);
        self.order
            .get_or_init(|| names.lines().map(str::to_string).collect());
        Ok(())
    }

    /// Sums each bucket once its gradients have arrived. Also returns the order of arrival.
    fn sum(
        &self,
        buckets: &[Vec<String>],
        arrival: Arrival,
        parameters: &Parameters,
        arrivals: &Receiver<NamedGradient>,
    ) -> Result<(Gradients, Vec<String>)> {
        let (mut sums, mut order) = (Vec::new(), Vec::new());
        let mut arrived = BTreeMap::new();
        for bucket in buckets {
            while let Some(missing) = bucket.iter().find(|&name| !arrived.contains_key(name)) {
                let gradient = match arrivals.recv() {
                    Ok((name, gradient)) => {
                        order.push(name.clone());
                        (name, gradient)
                    }
                    Err(_) if arrival == Arrival::Never => {
                        (missing.clone(), zeros(parameters, missing)?)
                    }
                    Err(_) => {
                        let name = missing.clone();
                        return Err(TrainError::NoGradient { name });
                    }
                };
                arrived.extend([gradient]);
            }
            let gradients = bucket.iter().filter_map(|name| arrived.remove_entry(name));
            sums.extend(self.sum_of_bucket(gradients.collect())?);
        }
        Ok((Gradients::from_tensors(sums), order))
    }

    fn sum_of_bucket(&self, gradients: Vec<NamedGradient>) -> Result<Vec<NamedGradient>> {
        let flat = gradients
            .iter()
            .map(|(_, gradient)| gradient.to_dtype(DType::F32)?.flatten_all());
        let flat = flat.collect::<candle_core::Result<Vec<_>>>()?;
        let sums = match &flat[..] {
            [one] => one.copy()?, // a copy, since `cat` of one tensor would share its storage
            all => Tensor::cat(all, 0)?,
        }; // f32 [values of the bucket]
        self.ranks.all_reduce(&sums)?;
        let mut start = 0;
        let split = gradients.into_iter().map(|(name, gradient)| {
            let sum = sums.narrow(0, start, gradient.elem_count())?;
            start += gradient.elem_count();
            Ok((
                name,
                sum.reshape(gradient.shape())?.to_dtype(gradient.dtype())?,
            ))
        });
        split.collect()
    }
}

fn zeros(parameters: &Parameters, name: &str) -> Result<Tensor> {
    let variable = parameters.get(name).ok_or_else(|| TrainError::NoGradient {
        name: name.to_string(),
    })?;
    Ok(variable.zeros_like()?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::distributed::threads::ranks_of_threads;

    /// Returns parameters each of which needs its own bucket, except the last two.
    fn parameters() -> Parameters {
        let sizes = [("a", BUCKET + 1), ("b", BUCKET), ("c", 2), ("d", 3)];
        let tensors = sizes.map(|(name, size)| {
            let tensor = Tensor::zeros(size, DType::F32, &Device::Cpu).unwrap();
            (name.to_string(), tensor)
        });
        Parameters::from_variables(tensors).unwrap()
    }

    fn gradient(variable: &Tensor, rank: usize) -> Tensor {
        variable
            .ones_like()
            .unwrap()
            .affine(rank as f64 + 1.0, 0.0)
            .unwrap()
    }

    #[test]
    fn gradients_are_summed_in_any_arrival_order() {
        let parameters = parameters();
        let threads = ranks_of_threads(3).into_iter().map(|ranks| {
            let parameters = parameters.clone();
            thread::spawn(move || {
                let rank = ranks.rank();
                let all_reduce = GradientAllReduce::new(Arc::new(ranks));
                for step in 0..3 {
                    let arrival = match (rank, step) {
                        (2, _) => Arrival::Never,
                        (1, 1) => Arrival::Together, // each rank knows only its own arrival
                        _ => Arrival::OneByOne,
                    };
                    let ((), sums) = all_reduce
                        .summed(arrival, &parameters, |sender| {
                            let mut names = ["d", "a", "c", "b"];
                            names.rotate_left(rank + step);
                            let names = names.into_iter();
                            for name in names.filter(|_| arrival != Arrival::Never) {
                                let variable = parameters.get(name).unwrap();
                                sender
                                    .send((name.to_string(), gradient(variable, rank)))
                                    .unwrap();
                            }
                            Ok(())
                        })
                        .unwrap();
                    for (name, variable) in parameters.iter() {
                        let sum = sums.get(name).unwrap();
                        assert_eq!(sum.shape(), variable.shape());
                        let expected = vec![1.0 + 2.0; variable.elem_count()];
                        assert!(sum.to_vec1::<f32>().unwrap() == expected, "{name}");
                    }
                }
                all_reduce.order.get().cloned()
            })
        });
        for thread in threads.collect::<Vec<_>>() {
            let order = thread.join().unwrap().unwrap();
            assert_eq!(order, ["d", "a", "c", "b"], "that of the first rank");
        }
    }

    #[test]
    fn missing_gradients_are_errors_by_name() {
        for ranks in ranks_of_threads(2).into_iter().take(1) {
            let all_reduce = GradientAllReduce::new(Arc::new(ranks));
            let error = all_reduce
                .summed(Arrival::Together, &parameters(), |_| Ok(()))
                .unwrap_err();
            assert!(matches!(error, TrainError::NoGradient { name } if name == "a"));
        }
    }
}
