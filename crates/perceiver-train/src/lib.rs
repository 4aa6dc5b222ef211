//! Training the Perceiver: Adam, AdamW, LAMB and SGD in Keras's form, learning-rate schedules,
//! early stopping, metrics, and a trainer whose interrupted runs resume bit-exactly.
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//!
//! use candle_core::Device;
//! use perceiver_train::{MetricsFile, Outcome, Preset, Recipe, RunDirectory, Trainer, TrainingData};
//!
//! // The quickstart recipe, cut down to a moment.
//! let changes = toml::from_str("data.limit_train = 80\ntraining.epochs = 1")?;
//! let layers = [("quickstart", Preset::Quickstart.table()), ("changes", changes)];
//! let recipe = Recipe::from_layers(&layers)?;
//!
//! let directory = tempfile::tempdir()?;
//! let run = RunDirectory::unused(directory.path().join("run"))?;
//! let data = TrainingData::load(&recipe)?;
//! let mut metrics = MetricsFile::new(run.metrics());
//! let mut trainer = Trainer::start(recipe, data, run, Device::Cpu)?;
//! assert_eq!(trainer.fit(&mut metrics, &AtomicBool::new(false))?, Outcome::Finished);
//! assert_eq!(trainer.history().len(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Images in memory are a [`Dataset`](perceiver_data::Dataset). The run's files record its name and
//! the hash of its content; [`Trainer::resume`] continues the run when it gets the same data set
//! again.
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//!
//! use candle_core::Device;
//! use perceiver_data::{Dataset, Image};
//! use perceiver_train::{
//!     Callbacks, Preset, Recipe, RunDirectory, TestResults, Trainer, TrainingData, TestTimeAugmentation, evaluate,
//! };
//!
//! // 40 images of 8 x 8 pixels, dark and light ones in turn: all red values, all green ones, all blue ones.
//! let image = |index: u8| Image::new(8, 8, vec![index + 100 * (index % 2); 3 * 64]);
//! let images = (0..40).map(image).collect::<Result<Vec<_>, _>>()?;
//! let labels = (0..40).map(|index| index % 2).collect();
//! let classes = vec!["dark".to_string(), "light".to_string()];
//! let mut dataset = Dataset::new("two tones", images, labels, classes)?;
//!
//! let changes = toml::from_str("training.epochs = 1\ntraining.batch_size = 16")?;
//! let layers = [("quickstart", Preset::Quickstart.table()), ("changes", changes)];
//! let recipe = Recipe::from_layers(&layers)?;
//! let data = TrainingData::new(dataset.clone(), &recipe)?;
//! assert_eq!(data.source.to_string(), "memory:two tones");
//!
//! let directory = tempfile::tempdir()?;
//! let run = RunDirectory::create(directory.path().join("run"))?;
//! let mut trainer = Trainer::start(recipe, data, run.clone(), Device::Cpu)?;
//! trainer.fit(&mut Callbacks::new(), &AtomicBool::new(false))?;
//!
//! // A test, which a run may have: on images of its own, if it is to mean something.
//! dataset.truncate(10);
//! let (test, place) = (dataset.into(), trainer.place());
//! let (model, preprocessing) = (trainer.model(), trainer.preprocessing());
//! let found = evaluate(model, TestTimeAugmentation::Picture, &test, preprocessing, place, &mut |_, _| ())?;
//! TestResults::new(&test, &found.sums).write(&run.results())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod callbacks; // events of a run, metrics files, TensorBoard
mod checkpoint; // model.safetensors and config.json
mod data; // training, validation and test splits
mod device; // CPU, CUDA or Metal
mod diagnostics; // model statistics, watchdog, memory
mod distributed; // several processes: all-reduce, MPI, NCCL
mod error; // the error type
mod eval; // evaluation, metrics, predictions
mod lr_schedule; // learning-rate schedules, reduce on plateau
mod optim; // optimizers, EMA, gradient clipping
mod recipe; // all settings of a run, presets
mod run; // the run directory and its files
mod step; // micro-batches, loss, mixed precision, prefetch
mod trainer; // the training loop

pub use callbacks::metrics_csv::MetricsCsv;
pub use callbacks::metrics_jsonl::MetricsFile;
pub use callbacks::tensorboard::EventFile;
pub use callbacks::{Callback, Callbacks, EpochMetrics, Event};
pub use checkpoint::config::{CheckpointConfig, DataCard};
pub use checkpoint::preprocessor_config::PreprocessorConfig;
pub use checkpoint::{Checkpoint, write_weights};
pub use data::TrainingData;
pub use data::overlap::SharedImages;
pub use data::shard_survey::Surveys;
pub use data::test_split::{all_samples, test_samples};
pub use device::DeviceChoice;
pub use diagnostics::memory::{memory_limit_bytes, peak_memory_bytes};
pub use diagnostics::model_stats::{
    AttentionDiagnosis, Diagnosis, GradientDiagnosis, ModelDiagnosis,
};
pub use diagnostics::watchdog::warning::{Warning, WarningKind};
pub use distributed::consistency::require_agreement;
#[cfg(feature = "mpi")]
pub use distributed::mpi::{MpiJob, MpiRanks};
#[cfg(feature = "nccl")]
pub use distributed::nccl::NcclRanks;
pub use distributed::threads::{ThreadRanks, ranks_of_threads};
pub use distributed::{Communicator, Placement, SingleProcess};
pub use error::{Result, TrainError};
pub use eval::metrics::{MetricSums, Metrics, TOP_K, wilson_interval};
pub use eval::predictions::{Prediction, read_predictions, write_predictions};
pub use eval::test_time_augmentation::TestTimeAugmentation;
pub use eval::{Evaluation, TestResults, evaluate};
pub use lr_schedule::reduce_on_plateau::{Plateau, PlateauConfig};
pub use lr_schedule::{End, Every, Position, ScheduleName, ScheduleRecipe};
pub use optim::adam::{Adam, AdamRule};
pub use optim::config::{DecayForm, OptimizerName, OptimizerRecipe};
pub use optim::gradients::Gradients;
pub use optim::lamb::{Lamb, LambRule};
pub use optim::sgd::{Sgd, SgdRule};
pub use optim::update_rule::{PerParameter, UpdateRule};
pub use optim::weight_decay::DecayScope;
pub use optim::{Optimizer, OptimizerState};
pub use recipe::budget::Budget;
pub use recipe::checkpoint_interval::CheckpointEvery;
pub use recipe::diff::Difference;
pub use recipe::initial_weights::InitialWeights;
pub use recipe::precision::Precision;
pub use recipe::preset::Preset;
pub use recipe::seed::Seed;
pub use recipe::suggestion::nearest;
pub use recipe::{DataRecipe, EarlyStoppingConfig, Recipe, TrainingRecipe, overlay};
pub use run::atomic_file::write as write_file;
pub use run::directory::RunDirectory;
pub use run::environment::Environment;
pub use run::lock::DirectoryLock;
pub use run::shell::shell_quoted;
pub use step::loss::{Targets, cross_entropies, cross_entropy};
pub use step::mixed_precision::MixedPrecision;
pub use trainer::early_stopping::{EarlyStopping, Verdict};
pub use trainer::estimate::{Forecast, require_memory};
pub use trainer::timer::TestReserve;
pub use trainer::training_state::TrainingState;
pub use trainer::{Outcome, Trainer};
