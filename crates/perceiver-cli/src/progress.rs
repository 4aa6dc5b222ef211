//! The observer that people watch: a bar an epoch on a terminal, and a line an epoch everywhere.

use indicatif::ProgressBar;
use perceiver_train::{EpochMetrics, Event, Metrics, Observer, Result};

use crate::forecast;
use crate::terminal;

const EPOCH: &str = "{prefix} [{bar:24}] {pos}/{len} steps  {msg}  {elapsed} < {eta}";
const PICTURES: &str = "{prefix} [{bar:24}] {pos}/{len} images  {elapsed} < {eta}";
const TRANSFER: &str =
    "{prefix} [{bar:24}] {bytes}/{total_bytes}  {bytes_per_sec}  {elapsed} < {eta}";

/// A bar over pictures.
pub(crate) fn picture_bar(images: u64, what: &str) -> ProgressBar {
    terminal::bar(images, PICTURES, what)
}

/// A bar over the bytes of a file that arrives or leaves.
pub(crate) fn transfer_bar(bytes: u64, what: &str) -> ProgressBar {
    terminal::bar(bytes, TRANSFER, what)
}

/// Shows training.
#[derive(Debug, Default)]
pub(crate) struct TrainingProgress {
    bar: Option<ProgressBar>,
    epoch: usize,
    epochs: Option<usize>,
    images: usize,
    /// What the last whole epoch took, validation included.
    epoch_seconds: Option<f64>,
}

impl TrainingProgress {
    fn start(&mut self, bar: ProgressBar) {
        self.finish();
        self.bar = Some(bar);
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn step(&mut self, step: usize, images: usize, metrics: &Metrics) {
        self.images += images;
        if let Some(bar) = &self.bar {
            let rate = self.images as f64 / bar.elapsed().as_secs_f64().max(1e-9);
            bar.set_message(format!(
                "loss {:.4}  acc {:.2}%  {rate:.0} images/s{}",
                metrics.loss,
                100.0 * metrics.acc,
                self.left(bar)
            ));
            bar.set_position(step as u64);
        }
    }

    /// What the whole run still takes, where its epochs are counted.
    fn left(&self, bar: &ProgressBar) -> String {
        let Some(epochs) = self.epochs else {
            return String::new();
        };
        let epoch = bar.duration().as_secs_f64();
        let epoch = self.epoch_seconds.unwrap_or(epoch);
        let later = epochs.saturating_sub(self.epoch) as f64 * epoch;
        let seconds = bar.eta().as_secs_f64() + later;
        format!("  {} left in all", forecast::time(seconds))
    }
}

impl Observer for TrainingProgress {
    fn notice(&mut self, event: &Event<'_>) -> Result<()> {
        match *event {
            Event::Started {
                history: [.., last],
            } => {
                self.epoch_seconds = Some(last.seconds);
                tracing::info!("going on after epoch {}", last.epoch);
            }
            Event::EpochStarted {
                epoch,
                epochs,
                first_step,
                steps,
            } => {
                (self.epoch, self.epochs, self.images) = (epoch, epochs, 0);
                let name = format!("epoch {}", of(epoch, epochs));
                let bar =
                    terminal::bar(steps as u64, EPOCH, &name).with_position(first_step as u64);
                bar.reset_eta();
                self.start(bar);
            }
            Event::Step {
                step,
                images,
                metrics,
            } => {
                tracing::trace!(
                    "step {step}: {:?} is the mean loss of the epoch so far",
                    metrics.loss
                );
                self.step(step, images, &metrics);
            }
            Event::Validation { done, total } => {
                if self
                    .bar
                    .as_ref()
                    .is_none_or(|bar| bar.prefix() != "validating")
                {
                    self.start(picture_bar(total, "validating"));
                }
                if let Some(bar) = &self.bar {
                    bar.set_position(done);
                }
            }
            Event::EpochEnded {
                history: [.., last],
                best,
            } => {
                self.finish();
                self.epoch_seconds = Some(last.seconds);
                tracing::info!("{}", epoch_line(last, self.epochs, best));
            }
            Event::LearningRateReduced { from, to } => {
                tracing::info!("validation loss no longer falls: learning rate {from} -> {to}");
            }
            Event::StoppedEarly { best_epoch } => {
                tracing::info!(
                    "validation loss has not fallen for long: stopping, with the weights of epoch {best_epoch}"
                );
            }
            Event::Warning(warning) => tracing::warn!("{warning}"),
            Event::Interrupted { .. } => self.finish(),
            _ => {}
        }
        Ok(())
    }
}

/// The number of an epoch, of how many where that is known.
fn of(epoch: usize, epochs: Option<usize>) -> String {
    epochs.map_or_else(|| epoch.to_string(), |epochs| format!("{epoch}/{epochs}"))
}

fn epoch_line(epoch: &EpochMetrics, epochs: Option<usize>, best: bool) -> String {
    format!(
        "epoch {}  loss {:.4}  acc {:.2}%  top-5 {:.2}%  |  val loss {:.4}  acc {:.2}%  top-5 {:.2}%  |  {:.0} s, {:.0} images/s{}",
        of(epoch.epoch, epochs),
        epoch.loss,
        100.0 * epoch.acc,
        100.0 * epoch.top5_acc,
        epoch.val_loss,
        100.0 * epoch.val_acc,
        100.0 * epoch.val_top5_acc,
        epoch.seconds,
        epoch.images_per_second,
        if best { "  *" } else { "" }
    )
}
