//! Training with several ranks gives the same results as with one.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread;

use candle_core::Device;
use perceiver_train::{
    Callback, CallbackResult, Communicator, Control, EpochMetrics, Event, Outcome, Placement,
    Preset, Recipe, RunDirectory, TrainError, Trainer, TrainingData, ranks_of_threads,
};

/// A recipe with everything that could depend on the distribution of work. Batches of 7 take two
/// accumulation steps of two micro-batches; the last batch of an epoch has one image.
const RECIPE: &str = "
model = { image_size = 16, patch_size = 4, latent_dim = 8, projection_dim = 16, num_heads = 2, head_dim = 8, \
    num_transformer_blocks = 1, num_iterations = 2, ffn_units = [16, 16], classifier_units = [16, 20], dropout_rate = 0.2, \
    attention_dropout = 0.1 }
data.limit_train = 340
data.limit_test = 20
data.validation_fraction = 0.4
data.augmentation = { horizontal_flip = true, zoom = 0.2, mixing = { mixup = 0.8, cutmix = 1.0 } }
training = { epochs = 2, batch_size = 7, gradient_accumulation = 2, parallel_micro_batches = 2, clip_norm = 0.5, \
    label_smoothing = 0.1, ema_decay = 0.9 }
";

fn recipe(changes: &str) -> Recipe {
    let layers = [
        ("quickstart", Preset::Quickstart.toml()),
        ("test", RECIPE),
        ("changes", changes),
    ];
    Recipe::from_layers(&layers).unwrap()
}

/// Records the loss of every step and interrupts the run after `stop_after` steps.
struct Steps<'a> {
    losses: Vec<f64>,
    seen: (f64, f64),
    stop_after: usize,
    stop: &'a AtomicBool,
}

impl Callback for Steps<'_> {
    fn on_event(&mut self, event: &Event<'_>) -> CallbackResult {
        if let Event::Step {
            step,
            images,
            metrics,
        } = event
        {
            let (sum, count) = if *step == 1 { (0.0, 0.0) } else { self.seen };
            let images = *images as f64;
            self.seen = (metrics.loss * (count + images), count + images);
            self.losses.push((self.seen.0 - sum) / images);
            if self.losses.len() == self.stop_after {
                self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        Ok(Control::Continue)
    }
}

/// The result of a rank.
struct End {
    outcome: Outcome,
    losses: Vec<f64>,
    history: Vec<EpochMetrics>,
    weights: Vec<f32>,
}

/// Trains with `size` ranks as threads, from the start or from the state in `run`. The last rank
/// requests a stop after `stop_after` steps.
fn train(run: &RunDirectory, size: usize, changes: &str, stop_after: usize) -> Vec<End> {
    let recipe = recipe(changes);
    let data = TrainingData::load(&recipe).unwrap();
    let after_steps = run.state().exists();
    let threads = ranks_of_threads(size).into_iter().map(|ranks| {
        let (recipe, data, run) = (recipe.clone(), data.clone(), run.clone());
        thread::spawn(move || {
            let is_last = ranks.rank() + 1 == size;
            let placement = Placement {
                device: Device::Cpu,
                ranks: Arc::new(ranks),
            };
            let trainer = if after_steps {
                Trainer::resume(recipe, data, run, placement)
            } else {
                Trainer::start(recipe, data, run, placement)
            };
            let mut trainer = trainer.unwrap();
            let stop = AtomicBool::new(false);
            let mut steps = Steps {
                losses: Vec::new(),
                seen: (0.0, 0.0),
                stop_after: if is_last { stop_after } else { usize::MAX },
                stop: &stop,
            };
            let outcome = trainer.fit_until(&mut steps, &stop).unwrap();
            let weights = trainer.parameters().iter().flat_map(|(_, variable)| {
                let flat = variable.flatten_all().unwrap();
                flat.to_vec1::<f32>().unwrap()
            });
            End {
                outcome,
                weights: weights.collect(),
                losses: steps.losses,
                history: trainer.history().to_vec(),
            }
        })
    });
    let threads: Vec<_> = threads.collect();
    threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect()
}

fn directory() -> (tempfile::TempDir, RunDirectory) {
    let directory = tempfile::tempdir().unwrap();
    let run = RunDirectory::unused(directory.path().join("run")).unwrap();
    (directory, run)
}

fn assert_close(actual: f64, expected: f64, what: &str) {
    let off = (actual - expected).abs() / expected.abs();
    assert!(
        off < 1e-6,
        "{what}: {actual}, not {expected}: off by {off:.1e}"
    );
}

fn assert_same_history(actual: &[EpochMetrics], expected: &[EpochMetrics]) {
    assert_eq!(actual.len(), expected.len());
    for (actual, expected) in actual.iter().zip(expected) {
        assert_close(actual.loss, expected.loss, "loss of an epoch");
        assert_close(actual.val_loss, expected.val_loss, "validation loss");
        let counted = |epoch: &EpochMetrics| {
            let shares = [epoch.acc, epoch.top5_acc, epoch.val_acc, epoch.val_top5_acc];
            shares.map(f64::to_bits)
        };
        assert_eq!(counted(actual), counted(expected));
    }
}

/// A single micro-batch per step, whose gradients are reduced during the backward pass.
const AT_ONCE: &str = "training.gradient_accumulation = 1\ntraining.parallel_micro_batches = 1";

#[test]
fn any_number_of_ranks_equals_one_process() {
    assert_ranks_equal_one_process("");
}

#[test]
fn early_all_reduce_gives_the_same_gradients() {
    assert_ranks_equal_one_process(AT_ONCE);
    assert_ranks_equal_one_process(&format!(
        "training.activation_checkpointing = true\n{AT_ONCE}"
    ));
}

#[test]
fn class_weights_add_up_over_ranks() {
    assert_ranks_equal_one_process("training.class_weights = 'balanced'");
    assert_ranks_equal_one_process(&format!("training.class_weights = 'balanced'\n{AT_ONCE}"));
}

fn assert_ranks_equal_one_process(changes: &str) {
    let (_kept, run) = directory();
    let one = train(&run, 1, changes, usize::MAX).remove(0);
    assert_eq!(one.losses.len(), 60);
    for size in 2..5 {
        let (_kept, run) = directory();
        let ends = train(&run, size, changes, usize::MAX);
        for end in &ends {
            assert_eq!(end.outcome, Outcome::Finished);
            assert_eq!(end.losses.len(), one.losses.len());
            for (step, (actual, expected)) in end.losses.iter().zip(&one.losses).enumerate() {
                assert_close(*actual, *expected, &format!("step {step} of {size} ranks"));
            }
            assert_same_history(&end.history, &one.history);
            assert!(end.weights == ends[0].weights, "ranks have come apart");
        }
    }
}

#[test]
fn one_rank_equals_a_single_process_bitwise() {
    let (_kept, run) = directory();
    let one = train(&run, 1, "training.epochs = 1", usize::MAX).remove(0);
    let (_kept, run) = directory();
    let recipe = recipe("training.epochs = 1");
    let data = TrainingData::load(&recipe).unwrap();
    let mut alone = Trainer::start(recipe, data, run, Device::Cpu).unwrap();
    let (mut observers, stop) = (perceiver_train::Callbacks::new(), AtomicBool::new(false));
    alone.fit_until(&mut observers, &stop).unwrap();
    let (actual, expected) = (&one.history[0], &alone.history()[0]);
    assert_eq!(actual.loss.to_bits(), expected.loss.to_bits());
    assert_eq!(actual.val_loss.to_bits(), expected.val_loss.to_bits());
}

#[test]
fn runs_resume_with_another_number_of_ranks() {
    let (_kept, run) = directory();
    let undisturbed = train(&run, 1, "", usize::MAX).remove(0);
    let (_kept, run) = directory();
    for (size, steps) in [(3, 11), (1, 23), (2, usize::MAX)] {
        let ends = train(&run, size, "", steps);
        let expected = if steps == usize::MAX {
            Outcome::Finished
        } else {
            Outcome::Interrupted
        };
        assert!(ends.iter().all(|end| end.outcome == expected));
        if expected == Outcome::Finished {
            assert_same_history(&ends[0].history, &undisturbed.history);
        }
    }
}

#[test]
fn mismatched_ranks_do_not_start() {
    let (_kept, run) = directory();
    let threads = ranks_of_threads(3).into_iter().map(|ranks| {
        let run = run.clone();
        thread::spawn(move || {
            let recipe = recipe(&format!("training.seed = {}", ranks.rank() / 2));
            let data = TrainingData::load(&recipe).unwrap();
            let placement = Placement {
                device: Device::Cpu,
                ranks: Arc::new(ranks),
            };
            Trainer::start(recipe, data, run, placement).err().unwrap()
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        let error = thread.join().unwrap().to_string();
        let expected = "rank 2 on this machine has training.seed = 1, but rank 0 has 0";
        assert_eq!(error, expected);
    }
    assert!(!run.root().exists());
}

/// A rank that fails, here in a callback, ends the waiting of the others with an error.
#[test]
fn a_failing_rank_fails_all_ranks() {
    struct Fails;
    impl Callback for Fails {
        fn on_event(&mut self, event: &Event<'_>) -> CallbackResult {
            match event {
                Event::Step { step: 3, .. } => Err(TrainError::NoGradient {
                    name: "made up".to_string(),
                }
                .into()),
                _ => Ok(Control::Continue),
            }
        }
    }
    let (_kept, run) = directory();
    let recipe = recipe("");
    let data = TrainingData::load(&recipe).unwrap();
    let errors = Arc::new(Mutex::new(Vec::new()));
    let threads = ranks_of_threads(3).into_iter().map(|ranks| {
        let (recipe, data, run) = (recipe.clone(), data.clone(), run.clone());
        let errors = Arc::clone(&errors);
        thread::spawn(move || {
            let fails = ranks.rank() == 1;
            let placement = Placement {
                device: Device::Cpu,
                ranks: Arc::new(ranks),
            };
            let mut trainer = Trainer::start(recipe, data, run, placement).unwrap();
            let mut observer: Vec<Box<dyn Callback>> = Vec::new();
            if fails {
                observer.push(Box::new(Fails));
            }
            let stop = AtomicBool::new(false);
            let error = trainer.fit_until(&mut observer, &stop).unwrap_err();
            errors.lock().unwrap().push(error.to_string());
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().unwrap();
    }
    let errors = errors.lock().unwrap();
    let gone = errors
        .iter()
        .filter(|error| error.contains("rank 1 has exited"));
    assert_eq!((errors.len(), gone.count()), (3, 2), "{errors:?}");
}
