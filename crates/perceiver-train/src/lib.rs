//! Training the Perceiver: Adam, AdamW, LAMB and SGD in Keras's form, learning-rate schedules, early stopping, metrics, and a trainer
//! whose runs can be left and resumed to the bit.
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
//! Images that a program has in memory are a [`Dataset`](perceiver_data::Dataset). The run's files call it by its name and the hash of its
//! content; [`Trainer::resume`] goes on with it when it is given the same again.
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//!
//! use candle_core::Device;
//! use perceiver_data::{Dataset, Image};
//! use perceiver_train::{
//!     Observers, Preset, Recipe, RunDirectory, TestResults, Trainer, TrainingData, Views, evaluate,
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
//! trainer.fit(&mut Observers::new(), &AtomicBool::new(false))?;
//!
//! // A test, which a run may have: on images of its own, if it is to mean something.
//! dataset.truncate(10);
//! let (test, place) = (dataset.into(), trainer.place());
//! let (model, preprocessing) = (trainer.model(), trainer.preprocessing());
//! let found = evaluate(model, Views::Picture, &test, preprocessing, place, &mut |_, _| ())?;
//! TestResults::new(&test, &found.sums).write(&run.results())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod adam;
mod agreement;
mod ahead;
mod atomic_file;
mod averaging;
mod batch_pass;
mod batch_score;
mod budget;
mod checked_file;
mod checkpoint;
mod checkpoint_config;
mod checkpoint_every;
mod clock;
mod device;
mod diagnosis;
mod difference;
mod directory_lock;
mod early_stopping;
mod environment;
mod error;
mod evaluation;
mod event_file;
mod exchange;
mod forecast;
mod gradients;
mod initial_weights;
mod json_file;
mod lamb;
mod loss;
mod memory;
mod metrics;
mod metrics_csv;
mod metrics_file;
mod moments;
#[cfg(feature = "mpi")]
mod mpi_ranks;
#[cfg(feature = "nccl")]
mod nccl_ranks;
mod observer;
mod optimizer;
mod optimizer_recipe;
mod plateau;
mod precision;
mod predictions;
mod preprocessor_config;
mod preset;
#[cfg(feature = "hub")]
mod pretrained;
mod progress;
mod ranks;
mod recipe;
mod recipe_bounds;
mod recipe_fields;
mod rule;
mod run_directory;
mod schedule;
mod scores;
mod seed;
mod settled;
mod sgd;
mod shared_images;
mod shell;
mod suggestion;
mod survey;
mod tap;
mod tensorboard;
mod test_pictures;
mod thread_ranks;
mod trainer;
mod training_data;
mod views;
mod watchdog;
mod weight_decay;
mod working_copy;

pub use adam::{Adam, AdamRule};
pub use agreement::require_agreement;
pub use atomic_file::write as write_file;
pub use budget::Budget;
pub use checkpoint::{Checkpoint, write_weights};
pub use checkpoint_config::{CheckpointConfig, DataCard};
pub use checkpoint_every::CheckpointEvery;
pub use clock::TestAhead;
pub use device::DeviceChoice;
pub use diagnosis::{AttentionDiagnosis, Diagnosis, GradientDiagnosis, ModelDiagnosis};
pub use difference::Difference;
pub use directory_lock::DirectoryLock;
pub use early_stopping::{EarlyStopping, Verdict};
pub use environment::Environment;
pub use error::{Result, TrainError};
pub use evaluation::{Evaluation, TestResults, evaluate};
pub use event_file::EventFile;
pub use forecast::{Forecast, require_memory};
pub use gradients::Gradients;
pub use initial_weights::InitialWeights;
pub use lamb::{Lamb, LambRule};
pub use loss::{Targets, cross_entropies, cross_entropy};
pub use memory::{memory_limit_bytes, peak_memory_bytes};
pub use metrics::{MetricSums, Metrics, TOP_K, wilson_interval};
pub use metrics_csv::MetricsCsv;
pub use metrics_file::MetricsFile;
#[cfg(feature = "mpi")]
pub use mpi_ranks::{MpiJob, MpiRanks};
#[cfg(feature = "nccl")]
pub use nccl_ranks::NcclRanks;
pub use observer::{EpochMetrics, Event, Observer, Observers};
pub use optimizer::{Optimizer, OptimizerState};
pub use optimizer_recipe::{DecayForm, OptimizerName, OptimizerRecipe};
pub use plateau::{Plateau, PlateauConfig};
pub use precision::Precision;
pub use predictions::{Prediction, read_predictions, write_predictions};
pub use preprocessor_config::PreprocessorConfig;
pub use preset::Preset;
pub use progress::Standing;
pub use ranks::{Alone, Ranks, Workplace};
pub use recipe::{DataRecipe, EarlyStoppingConfig, Recipe, TrainingRecipe, overlay};
pub use rule::{ByParameter, Rule};
pub use run_directory::RunDirectory;
pub use schedule::{End, Every, Position, ScheduleName, ScheduleRecipe};
pub use seed::Seed;
pub use sgd::{Sgd, SgdRule};
pub use shared_images::SharedImages;
pub use shell::shell_quoted;
pub use suggestion::nearest;
pub use survey::Surveys;
pub use test_pictures::{test_pictures, whole_pictures};
pub use thread_ranks::{ThreadRanks, ranks_of_threads};
pub use trainer::{Outcome, Trainer};
pub use training_data::TrainingData;
pub use views::Views;
pub use watchdog::{Warning, WarningKind};
pub use weight_decay::Decayed;
pub use working_copy::WorkingCopy;
