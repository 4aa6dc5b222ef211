//! Calls a run's callbacks, and keeps what they and the caller ask of the run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use perceiver_data::BoxError;

use crate::callbacks::{Callback, Control, Event, Validated};
use crate::error::{Result, TrainError};

/// The callbacks of a run, with the requests to end it.
pub(crate) struct Notifier<'a> {
    callback: &'a mut dyn Callback,
    /// The caller's request to save and leave, such as Ctrl-C.
    interrupt: &'a AtomicBool,
    /// A callback's request to end training.
    stop: bool,
}

impl<'a> Notifier<'a> {
    pub(crate) fn new(callback: &'a mut dyn Callback, interrupt: &'a AtomicBool) -> Self {
        Self {
            callback,
            interrupt,
            stop: false,
        }
    }

    /// Calls the callbacks with an event.
    pub(crate) fn notify(&mut self, event: &Event<'_>) -> Result<()> {
        let control = self.callback.on_event(event).map_err(callback_error)?;
        self.stop |= control == Control::Stop;
        Ok(())
    }

    /// Collects the callbacks' own metrics of an epoch.
    pub(crate) fn epoch_metrics(
        &mut self,
        validated: &Validated<'_>,
    ) -> Result<BTreeMap<String, f64>> {
        let metrics = self.callback.epoch_metrics(validated);
        let mut by_name = BTreeMap::new();
        for (name, value) in metrics.map_err(callback_error)? {
            let finding = if value.is_finite() {
                by_name
                    .insert(name.clone(), value)
                    .map(|_| "the name twice".to_string())
            } else {
                Some(value.to_string())
            };
            if let Some(finding) = finding {
                return Err(TrainError::Callback(
                    format!("metric {name:?}: expected one finite number, found {finding}").into(),
                ));
            }
        }
        Ok(by_name)
    }

    /// Returns whether the caller asked to save and leave.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }

    /// Returns whether a callback asked to end training.
    pub(crate) fn is_stop_requested(&self) -> bool {
        self.stop
    }
}

/// Converts an error of a callback; our own errors stay what they are.
fn callback_error(error: BoxError) -> TrainError {
    match error.downcast::<TrainError>() {
        Ok(own) => *own,
        Err(other) => TrainError::Callback(other),
    }
}
