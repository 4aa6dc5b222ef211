//! Optimizer state per parameter: moments and velocities.

use std::collections::{BTreeMap, HashMap};

use candle_core::Tensor;

use crate::error::Result;

/// `N` tensors per parameter, of its shape, initially zero.
#[derive(Debug)]
pub(crate) struct Moments<const N: usize> {
    kinds: [&'static str; N],
    by_parameter: BTreeMap<String, [Tensor; N]>,
}

impl<const N: usize> Moments<N> {
    /// Creates an empty state. In a saved state, the name of a tensor is its kind, a dot and the
    /// parameter's name.
    pub(crate) fn new(kinds: [&'static str; N]) -> Self {
        Self {
            kinds,
            by_parameter: BTreeMap::new(),
        }
    }

    /// Returns the tensors of the parameter `name`, with the shape of its gradient. The clones
    /// share their storage with the state.
    pub(crate) fn of(&mut self, name: &str, gradient: &Tensor) -> Result<[Tensor; N]> {
        if let Some(tensors) = self.by_parameter.get(name) {
            return Ok(tensors.clone());
        }
        let zeros = gradient.zeros_like()?;
        let mut tensors = [(); N].map(|()| zeros.clone());
        for tensor in &mut tensors[1..] {
            *tensor = zeros.copy()?;
        }
        self.by_parameter.insert(name.to_string(), tensors.clone());
        Ok(tensors)
    }

    /// Returns copies of all tensors, which later steps do not change.
    pub(crate) fn state(&self) -> Result<HashMap<String, Tensor>> {
        let mut state = HashMap::new();
        for (name, tensors) in &self.by_parameter {
            for (kind, tensor) in self.kinds.iter().zip(tensors) {
                state.insert(format!("{kind}.{name}"), tensor.copy()?);
            }
        }
        Ok(state)
    }

    /// Restores the output of [`Moments::state`].
    pub(crate) fn restore(&mut self, state: &HashMap<String, Tensor>) {
        let prefix = format!("{}.", self.kinds[0]);
        let names = state.keys().filter_map(|key| key.strip_prefix(&prefix));
        self.by_parameter = names
            .filter_map(|name| {
                let of_kind = |kind: &&str| state.get(&format!("{kind}.{name}")).cloned();
                let tensors: Option<Vec<Tensor>> = self.kinds.iter().map(of_kind).collect();
                Some((name.to_string(), tensors?.try_into().ok()?))
            })
            .collect();
    }
}
