//! The progress callback: a bar per epoch on a terminal, and a line per epoch everywhere.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressState};
use perceiver_report::says_top5;
use perceiver_train::{Callback, CallbackResult, Control, EpochMetrics, Event, Metrics};

use crate::ui::estimate;
use crate::ui::terminal;

const EPOCH: &str = "{prefix} [{bar:24}] {pos}/{len} steps  {elapsed}{metrics}";
const IMAGE_BAR: &str = "{prefix} [{bar:24}] {pos}/{len} images  {elapsed}{left}";
const TRANSFER: &str =
    "{prefix} [{bar:24}] {bytes}/{total_bytes}  {bytes_per_sec}  {elapsed}{left}";

/// Creates a bar that counts images.
pub(crate) fn image_bar(images: u64, what: &str) -> ProgressBar {
    terminal::bar(images, IMAGE_BAR, what)
}

/// Creates a bar that counts the bytes of a download or upload.
pub(crate) fn transfer_bar(bytes: u64, what: &str) -> ProgressBar {
    terminal::bar(bytes, TRANSFER, what)
}

/// The progress display of training.
#[derive(Debug, Default)]
pub(crate) struct TrainingProgress {
    bar: Option<ProgressBar>,
    /// The metrics beside the bar's counter; set before the counter, so that both are drawn at
    /// once.
    metrics: Arc<Mutex<String>>,
    /// The number of classes of the model.
    classes: usize,
    epoch: usize,
    epochs: Option<usize>,
    images: usize,
    /// The duration of the last complete epoch, validation included.
    epoch_seconds: Option<f64>,
}

impl TrainingProgress {
    /// Creates the display for a model with `classes` classes.
    pub(crate) fn new(classes: usize) -> Self {
        Self {
            classes,
            ..Self::default()
        }
    }

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
            let text = format!(
                "  loss {:.4}  acc {:.2}%  {rate:.0} images/s{}",
                metrics.loss,
                100.0 * metrics.acc,
                self.left(bar)
            );
            *lock(&self.metrics) = text;
            bar.set_position(step as u64);
        }
    }

    /// Creates a bar for the steps of an epoch, without metrics yet.
    fn epoch_bar(&self, steps: u64, name: &str) -> ProgressBar {
        lock(&self.metrics).clear();
        let metrics = Arc::clone(&self.metrics);
        let show = move |_: &ProgressState, line: &mut dyn fmt::Write| {
            let _ = line.write_str(&lock(&metrics)); // no bar if drawing fails
        };
        let bar = terminal::bar(steps, EPOCH, name);
        bar.set_style(bar.style().with_key("metrics", show));
        bar
    }

    /// Formats the remaining time of the epoch and, if the number of epochs is known, of the run.
    fn left(&self, bar: &ProgressBar) -> String {
        if bar.eta().is_zero() && bar.position() < bar.length().unwrap_or(0) {
            return String::new(); // not known yet
        }
        let left = bar.eta().as_secs_f64();
        let of_epoch = format!("  epoch ETA {}", estimate::time(left));
        let Some(epochs) = self.epochs else {
            return of_epoch;
        };
        let epoch = bar.duration().as_secs_f64();
        let epoch = self.epoch_seconds.unwrap_or(epoch);
        let later = epochs.saturating_sub(self.epoch) as f64 * epoch;
        format!("{of_epoch}, total ETA {}", estimate::time(left + later))
    }
}

impl Callback for TrainingProgress {
    fn on_event(&mut self, event: &Event<'_>) -> CallbackResult {
        match *event {
            Event::Started {
                history: [.., last],
            } => {
                self.epoch_seconds = Some(last.seconds);
                tracing::info!("resuming after epoch {}", last.epoch);
            }
            Event::EpochStarted {
                epoch,
                epochs,
                first_step,
                steps,
            } => {
                (self.epoch, self.epochs, self.images) = (epoch, epochs, 0);
                let name = format!("epoch {}", of(epoch, epochs));
                let bar = self
                    .epoch_bar(steps as u64, &name)
                    .with_position(first_step as u64);
                bar.reset_eta();
                self.start(bar);
            }
            Event::Step {
                step,
                images,
                metrics,
            } => {
                tracing::trace!(
                    "step {step}: mean loss of the epoch so far {:?}",
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
                    self.start(image_bar(total, "validating"));
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
                let shows_top5 = says_top5(self.classes);
                tracing::info!("{}", epoch_line(last, self.epochs, best, shows_top5));
            }
            Event::LearningRateReduced { from, to } => {
                tracing::info!("validation loss stopped improving: learning rate {from} -> {to}");
            }
            Event::StoppedEarly { best_epoch } => {
                tracing::info!(
                    "early stopping: validation loss stopped improving; using the weights of epoch {best_epoch}"
                );
            }
            Event::Warning(warning) => tracing::warn!("{warning}"),
            Event::Interrupted { .. } => self.finish(),
            _ => {}
        }
        Ok(Control::Continue)
    }
}

/// Formats an epoch and, if known, the number of epochs.
fn of(epoch: usize, epochs: Option<usize>) -> String {
    epochs.map_or_else(|| epoch.to_string(), |epochs| format!("{epoch}/{epochs}"))
}

fn epoch_line(epoch: &EpochMetrics, epochs: Option<usize>, best: bool, shows_top5: bool) -> String {
    let accuracies = |top1: f64, top5: f64| {
        let top5 = shows_top5.then(|| format!("  top-5 {:.2}%", 100.0 * top5));
        format!("acc {:.2}%{}", 100.0 * top1, top5.unwrap_or_default())
    };
    format!(
        "epoch {}  loss {:.4}  {}  |  val loss {:.4}  {}  |  {:.0} s, {:.0} images/s{}",
        of(epoch.epoch, epochs),
        epoch.loss,
        accuracies(epoch.acc, epoch.top5_acc),
        epoch.val_loss,
        accuracies(epoch.val_acc, epoch.val_top5_acc),
        epoch.seconds,
        epoch.images_per_second,
        if best { "  *" } else { "" }
    )
}

fn lock(text: &Mutex<String>) -> std::sync::MutexGuard<'_, String> {
    text.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io;

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    /// A terminal that stores the last line drawn.
    #[derive(Clone, Debug, Default)]
    struct LastLine(Arc<Mutex<String>>);

    impl LastLine {
        fn text(&self) -> String {
            lock(&self.0).clone()
        }
    }

    impl TermLike for LastLine {
        fn width(&self) -> u16 {
            160
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            if !text.trim().is_empty() {
                *lock(&self.0) = text.to_string();
            }
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn metrics(loss: f64) -> Metrics {
        Metrics {
            loss,
            acc: 0.5,
            top5_acc: 1.0,
        }
    }

    #[test]
    fn counter_and_metrics_are_of_the_same_step() {
        let terminal = LastLine::default();
        let mut progress = TrainingProgress::new(20);
        progress.epochs = Some(1);
        let bar = progress.epoch_bar(8, "epoch 1/1");
        bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(terminal.clone())));
        bar.tick();
        let first = terminal.text();
        assert!(first.contains("0/8 steps  0s"), "{first}");
        assert!(
            !first.contains("ETA"),
            "an ETA before the first step: {first}"
        );
        progress.start(bar);
        for step in 1..=8 {
            progress.step(step, 4, &metrics(step as f64));
            let line = terminal.text();
            let shown = (0..=8).find(|step| line.contains(&format!(" {step}/8 steps")));
            let shown = shown.expect(&line);
            let loss = format!("  loss {shown}.0000");
            assert!(shown == 0 || line.contains(&loss), "{line}");
        }
    }

    #[test]
    fn few_classes_have_no_top_5() {
        let epoch = EpochMetrics {
            epoch: 1,
            loss: 0.5,
            acc: 0.5,
            top5_acc: 1.0,
            val_loss: 0.5,
            val_acc: 0.5,
            val_top5_acc: 1.0,
            learning_rate: 0.1,
            seconds: 2.0,
            images_per_second: 30.0,
            diagnosis: None,
            warnings: Vec::new(),
            custom: std::collections::BTreeMap::new(),
        };
        assert_eq!(
            epoch_line(&epoch, Some(3), true, false),
            "epoch 1/3  loss 0.5000  acc 50.00%  |  val loss 0.5000  acc 50.00%  |  2 s, 30 images/s  *"
        );
        assert_eq!(
            epoch_line(&epoch, None, false, true)
                .matches("top-5 100.00%")
                .count(),
            2
        );
    }
}
