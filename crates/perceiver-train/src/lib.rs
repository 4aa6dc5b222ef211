//! Training the Perceiver: Adam, AdamW, LAMB and SGD in Keras's form, learning-rate schedules,
//! early stopping, metrics, and a trainer whose interrupted runs resume bit-exactly.
//!
//! ```
//! use candle_core::Device;
//! use perceiver_data::{LoadOptions, Source, Split};
//! use perceiver_train::{MetricsFile, Preset, RunDirectory, Trainer, TrainingData};
//!
//! // The quickstart recipe, cut down to a moment.
//! let mut recipe = Preset::Quickstart.recipe();
//! recipe.data.limit_train = Some(80);
//! recipe.training.epochs = 1;
//!
//! let directory = tempfile::tempdir()?;
//! let run = RunDirectory::create(directory.path().join("run"))?;
//! let data = TrainingData::load(&recipe)?;
//! let mut metrics = MetricsFile::new(run.metrics());
//! let mut trainer = Trainer::start(recipe, data, run, Device::Cpu)?;
//! trainer.fit(&mut metrics)?;
//! assert_eq!(trainer.history().len(), 1);
//!
//! let mut test = Source::Shapes.load(Split::Test, &LoadOptions::default())?;
//! test.truncate(20);
//! let results = trainer.test(&test.into(), &mut ())?;
//! assert_eq!(results.images, 20);
//! # Ok::<(), perceiver_data::BoxError>(())
//! ```
//!
//! # Data of your own
//!
//! [`TrainingData::new`] takes images in memory, a [`Dataset`](perceiver_data::Dataset), or images
//! that are read by index, a [`MapDataset`](perceiver_data::MapDataset). The run's files record the
//! name and the hash of the data; [`Trainer::resume`] continues the run when it gets the same data
//! again.
//!
//! ```
//! use candle_core::Device;
//! use perceiver_data::{Dataset, Image};
//! use perceiver_train::{Control, Event, Preset, RunDirectory, Trainer, TrainingData};
//!
//! // 40 images of 8 x 8 pixels, dark and light ones in turn: all red values, all green ones, all blue ones.
//! let image = |index: u8| Image::new(8, 8, vec![index + 100 * (index % 2); 3 * 64]);
//! let images = (0..40).map(image).collect::<Result<Vec<_>, _>>()?;
//! let labels = (0..40).map(|index| index % 2).collect();
//! let classes = vec!["dark".to_string(), "light".to_string()];
//! let dataset = Dataset::new("two tones", images, labels, classes)?;
//!
//! let mut recipe = Preset::Quickstart.recipe();
//! recipe.training.epochs = 2;
//! recipe.training.batch_size = 16;
//! let data = TrainingData::new(dataset, &recipe)?;
//! assert_eq!((data.train.len(), data.validation.len()), (36, 4));
//!
//! let directory = tempfile::tempdir()?;
//! let run = RunDirectory::create(directory.path().join("run"))?;
//! let mut trainer = Trainer::start(recipe, data, run, Device::Cpu)?;
//! trainer.fit(&mut |event: &Event<'_>| {
//!     if let Event::EpochEnded { history, .. } = event {
//!         println!("epoch {}: {}", history.len(), history[history.len() - 1].val_acc);
//!     }
//!     Ok(Control::Continue)
//! })?;
//! # Ok::<(), perceiver_data::BoxError>(())
//! ```
//!
//! # Parts of your own
//!
//! A [`Callback`] sees the events of a run, adds metrics and can end it. An [`Optimizer`], a loss and
//! a learning-rate schedule replace those of the recipe: [`Trainer::with_optimizer`],
//! [`Trainer::with_loss`], [`Trainer::with_schedule`]. The examples of this crate show callbacks
//! and data of a program's own.
//!
//! # Debug builds
//!
//! Without optimization, training is many times slower. Add this to the `Cargo.toml` of your
//! workspace:
//!
//! ```toml
//! [profile.dev.package."*"]
//! opt-level = 3
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
pub use callbacks::progress_json::{ProgressFile, RunPhase, RunProgress};
pub use callbacks::steps_csv::StepsCsv;
pub use callbacks::tensorboard::EventFile;
pub use callbacks::tensorboard::histogram_file::HistogramFile;
pub use callbacks::{Callback, CallbackResult, Callbacks, Control, EpochMetrics, Event, Validated};
pub use checkpoint::config::{CheckpointConfig, DataCard};
pub use checkpoint::preprocessor_config::PreprocessorConfig;
pub use checkpoint::{Checkpoint, write_weights};
pub use data::TrainingData;
pub use data::overlap::SharedImages;
pub use data::shard_survey::Surveys;
pub use data::test_split::{all_samples, test_samples};
pub use device::DeviceChoice;
pub use diagnostics::histogram::Histogram;
pub use diagnostics::memory::{memory_limit_bytes, peak_memory_bytes};
pub use diagnostics::model_stats::{
    AttentionDiagnosis, Diagnosis, GradientDiagnosis, ModelDiagnosis,
};
pub use diagnostics::step_history::StepMetrics;
pub use diagnostics::watchdog::warning::{Warning, WarningKind};
pub use distributed::consistency::{Facts, require_agreement};
#[cfg(feature = "mpi")]
pub use distributed::mpi::{MpiJob, MpiRanks};
#[cfg(feature = "nccl")]
pub use distributed::nccl::NcclRanks;
pub use distributed::threads::{ThreadRanks, ranks_of_threads};
pub use distributed::{Communicator, Placement, SingleProcess};
pub use error::{Result, TrainError};
pub use eval::classification_report::{ClassAverages, ClassMetrics, ClassificationReport};
pub use eval::confusion_matrix::{ConfusedPair, ConfusionMatrix};
pub use eval::embeddings::header::{EmbeddedImage, EmbeddingsHeader};
pub use eval::embeddings::nearest::{Neighbor, SimilarityMetric};
pub use eval::embeddings::writer::EmbeddingWriter;
pub use eval::embeddings::{EmbeddingFormat, Embeddings};
pub use eval::metrics::{MetricSums, Metrics, TOP_K, wilson_interval};
pub use eval::predictions::{Prediction, read_predictions, write_predictions};
pub use eval::predictor::Predictor;
pub use eval::test_time_augmentation::TestTimeAugmentation;
pub use eval::top_classes::{ClassProbability, top_classes};
pub use eval::{Evaluation, TestResults, evaluate, evaluate_each};
pub use lr_schedule::reduce_on_plateau::{Plateau, PlateauConfig};
pub use lr_schedule::{End, Every, Position, ScheduleName, ScheduleRecipe};
pub use optim::adam::{Adam, AdamRule};
pub use optim::config::{DecayForm, OptimizerName, OptimizerRecipe};
pub use optim::gradients::Gradients;
pub use optim::lamb::{Lamb, LambRule};
pub use optim::muon::{Muon, MuonRecipe, MuonRule, MuonScaleName};
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
pub use recipe::{
    ClassWeighting, DataRecipe, EarlyStoppingConfig, Recipe, TrainingRecipe, ValidationSplit,
};
pub use run::atomic_file::write as write_file;
pub use run::directory::RunDirectory;
pub use run::environment::Environment;
pub use run::lock::DirectoryLock;
pub use run::shell::shell_quoted;
pub use step::class_weights::ClassWeights;
pub use step::loss::{Targets, cross_entropies, cross_entropy};
pub use step::mixed_precision::MixedPrecision;
pub use trainer::early_stopping::{EarlyStopping, EarlyStoppingDecision};
pub use trainer::estimate::{Forecast, require_memory};
pub use trainer::timer::TestReserve;
pub use trainer::training_state::TrainingState;
pub use trainer::{Outcome, Trainer};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDocTests;
