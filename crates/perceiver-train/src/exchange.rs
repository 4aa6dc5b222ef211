//! Gradients on their way between the ranks: summed in buckets, the first while the backward pass still looks for the last.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread;

use candle_core::{DType, Tensor};
use perceiver_model::Parameters;

use crate::error::{Result, TrainError};
use crate::gradients::Gradients;
use crate::ranks::Ranks;
use crate::tap::Found;

/// Values of a bucket, unless a single parameter has more: 8 MiB, enough for a network to be at its full speed.
const BUCKET: usize = 1 << 21;

/// When a rank finds its gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// One after another, with time for something else in between.
    OneByOne,
    /// All at the end.
    Together,
    /// Not at all, as its part of the batch is empty.
    Never,
}

/// The way of gradients between the ranks.
pub(crate) struct Exchange {
    ranks: Arc<dyn Ranks>,
    /// Parameters' names in the order in which the first rank has found their gradients, the same on all ranks; none before all
    /// have gone through a batch.
    order: OnceLock<Vec<String>>,
}

impl Exchange {
    pub(crate) fn new(ranks: Arc<dyn Ranks>) -> Self {
        let order = OnceLock::new();
        Self { ranks, order }
    }

    /// The sum over all ranks of the gradients that `find` sends, in any order, and as this rank knows their `arrival`; zeros are those
    /// that never arrive. All ranks have to be here.
    ///
    /// # Errors
    /// Those of `find`; when a gradient is missing, a rank has gone, or candle refuses an operation.
    pub(crate) fn summed<T>(
        &self,
        arrival: Arrival,
        parameters: &Parameters,
        find: impl FnOnce(&Sender<Found>) -> Result<T>,
    ) -> Result<(T, Gradients)> {
        let (sender, arrivals) = channel();
        if self.ranks.size() == 1 {
            let found = find(&sender)?;
            drop(sender);
            return Ok((found, Gradients::from_tensors(arrivals)));
        }
        let buckets = &self.buckets(parameters);
        let sum = move || self.sum(buckets, arrival, parameters, &arrivals);
        let (found, sums) = if arrival == Arrival::OneByOne {
            thread::scope(|scope| {
                let others = scope.spawn(sum);
                let found = find(&sender);
                drop(sender);
                let sums = others.join();
                (found, sums.unwrap_or_else(|panic| resume_unwind(panic)))
            })
        } else {
            let found = find(&sender);
            drop(sender);
            (found, sum())
        };
        let (found, (sums, order)) = (found?, sums?);
        if self.order.get().is_none() {
            self.learn(&order)?;
        }
        Ok((found, sums))
    }

    /// Names in buckets, in the order in which gradients are found as far as it is known: what is complete early is on its way early.
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

    /// Takes over the order of the first rank.
    fn learn(&self, order: &[String]) -> Result<()> {
        let mut names = order.join("\n").into_bytes();
        self.ranks.broadcast(0, &mut names)?;
        if names.is_empty() {
            return Ok(()); // its part was empty
        }
        let names = String::from_utf8_lossy(&names);
        self.order
            .get_or_init(|| names.lines().map(str::to_string).collect());
        Ok(())
    }

    /// Sums up bucket after bucket, each once its gradients have arrived; and the order in which they did.
    fn sum(
        &self,
        buckets: &[Vec<String>],
        arrival: Arrival,
        parameters: &Parameters,
        arrivals: &Receiver<Found>,
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

    fn sum_of_bucket(&self, gradients: Vec<Found>) -> Result<Vec<Found>> {
        let flat = gradients
            .iter()
            .map(|(_, gradient)| gradient.to_dtype(DType::F32)?.flatten_all());
        let flat = flat.collect::<candle_core::Result<Vec<_>>>()?;
        let sums = match &flat[..] {
            [one] => one.copy()?, // which `cat` would share
            all => Tensor::cat(all, 0)?,
        }; // f32 [values of the bucket]
        self.ranks.all_reduce(&sums)?;
        let mut start = 0;
        let taken_apart = gradients.into_iter().map(|(name, gradient)| {
            let sum = sums.narrow(0, start, gradient.elem_count())?;
            start += gradient.elem_count();
            Ok((
                name,
                sum.reshape(gradient.shape())?.to_dtype(gradient.dtype())?,
            ))
        });
        taken_apart.collect()
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
    use crate::thread_ranks::ranks_of_threads;

    /// Parameters of which each needs a bucket of its own, but the last two.
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
    fn all_is_summed_whatever_comes_when() {
        let parameters = parameters();
        let threads = ranks_of_threads(3).into_iter().map(|ranks| {
            let parameters = parameters.clone();
            thread::spawn(move || {
                let rank = ranks.rank();
                let exchange = Exchange::new(Arc::new(ranks));
                for step in 0..3 {
                    let arrival = match (rank, step) {
                        (2, _) => Arrival::Never,
                        (1, 1) => Arrival::Together, // as each rank knows for itself
                        _ => Arrival::OneByOne,
                    };
                    let ((), sums) = exchange
                        .summed(arrival, &parameters, |found| {
                            let mut names = ["d", "a", "c", "b"];
                            names.rotate_left(rank + step);
                            let names = names.into_iter();
                            for name in names.filter(|_| arrival != Arrival::Never) {
                                let variable = parameters.get(name).unwrap();
                                found
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
                exchange.order.get().cloned()
            })
        });
        for thread in threads.collect::<Vec<_>>() {
            let order = thread.join().unwrap().unwrap();
            assert_eq!(order, ["d", "a", "c", "b"], "that of the first rank");
        }
    }

    #[test]
    fn a_gradient_that_never_comes_is_named() {
        for ranks in ranks_of_threads(2).into_iter().take(1) {
            let exchange = Exchange::new(Arc::new(ranks));
            let error = exchange
                .summed(Arrival::Together, &parameters(), |_| Ok(()))
                .unwrap_err();
            assert!(matches!(error, TrainError::NoGradient { name } if name == "a"));
        }
    }
}
