//! What our own processes do while the clock runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use clap::{Args, ValueEnum};
use perceiver_data::{Batch, Loader, LoaderConfig, Normalization, Preprocessing, Split};
use perceiver_model::{Parameters, PerceiverConfig, Summary};
use perceiver_ops::{Key, Mode, Tape, Upload, peak_device_bytes};
use perceiver_train::{
    Adam, DeviceChoice, Optimizer, Precision, Preset, Recipe, Targets, WorkingCopy,
    peak_memory_bytes,
};
use rayon::prelude::*;

use super::gpu;
use super::worker::Sample;
use crate::error::Result;

/// Batches of one repetition of [`Task::Loader`]: many more than wait ready when the clock starts.
const LOADER_BATCHES: usize = 64;

/// What is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// Matrix products alone, as large as the model's or larger: what the machine can do.
    Products,
    /// A training step: forward, backward, Adam.
    Train,
    /// A forward pass.
    Infer,
    /// An augmented batch from the loader.
    Loader,
    /// A training step, whose kernels are noted one by one.
    Kernels,
}

/// What is done once more.
pub(super) type Repeat = Box<dyn FnMut() -> Result<()>>;

/// One process's work.
#[derive(Args, Clone, Debug)]
pub struct Workload {
    /// What is repeated.
    #[arg(value_enum)]
    pub task: Task,
    /// The preset whose model is measured.
    #[arg(long)]
    pub preset: Preset,
    /// Pictures in a batch.
    #[arg(long)]
    pub batch_size: Option<usize>,
    /// Pixels of a side, if not the preset's.
    #[arg(long)]
    pub image_size: Option<usize>,
    /// Train with recomputation.
    #[arg(long)]
    pub recompute: bool,
    /// Where to compute.
    #[arg(long)]
    pub device: DeviceChoice,
    /// In what numbers.
    #[arg(long)]
    pub precision: Precision,
    /// Timed repetitions.
    #[arg(long)]
    pub steps: usize,
}

/// Repetitions of which a GPU is told before it is waited for, as in training.
const UNTIL_A_GPU_IS_WAITED_FOR: usize = 10;

impl Workload {
    /// The command line that [`Workload`] is parsed from.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            self.task
                .to_possible_value()
                .map_or_else(String::new, |v| v.get_name().to_owned()),
            format!("--preset={}", self.preset),
            format!("--device={}", self.device),
            format!("--precision={}", self.precision),
            format!("--steps={}", self.steps),
        ];
        arguments.extend(self.batch_size.map(|n| format!("--batch-size={n}")));
        arguments.extend(self.image_size.map(|n| format!("--image-size={n}")));
        arguments.extend(self.recompute.then(|| "--recompute".to_owned()));
        arguments
    }

    /// The whole recipe.
    ///
    /// # Errors
    /// When no recipe has pictures of that size.
    pub fn recipe(&self) -> Result<Recipe> {
        let mut changes = toml::Table::new();
        if let Some(side) = self.image_size {
            let model = toml::Value::try_from(HashMap::from([("image_size", side)]));
            changes.extend(model.map(|model| ("model".to_owned(), model)));
        }
        let layers = [
            (self.preset.name(), self.preset.table()),
            ("--image-size", changes),
        ];
        Ok(Recipe::from_layers(&layers)?)
    }

    /// Pictures in a batch.
    ///
    /// # Errors
    /// As [`Workload::recipe`].
    pub fn batch(&self) -> Result<usize> {
        Ok(self
            .batch_size
            .unwrap_or(self.recipe()?.training.batch_size))
    }

    /// The multiply-adds that one picture needs, in the form of attention with the fewest. A training step has the forward
    /// pass's products and, for each of them, those of two gradients; products of weights, made once a batch, are not counted.
    ///
    /// # Errors
    /// As [`Workload::recipe`].
    pub fn multiply_adds(&self) -> Result<u64> {
        let forward = Summary::new(&self.recipe()?.model)?.multiply_adds();
        Ok(match self.task {
            Task::Train | Task::Kernels => 3 * forward,
            _ => forward,
        })
    }

    /// Does the work, and returns what was found as a line of JSON.
    ///
    /// # Errors
    /// As [`Workload::run`].
    pub fn found(&self) -> Result<String> {
        let found = match self.task {
            Task::Kernels => serde_json::to_string(&gpu::kernels(self)?),
            _ => serde_json::to_string(&self.run()?),
        };
        Ok(found.unwrap_or_default())
    }

    /// Does the work and measures it.
    ///
    /// # Errors
    /// When the device cannot be opened or candle refuses an operation.
    pub fn run(&self) -> Result<Sample> {
        let device = self.device.open()?;
        if self.task == Task::Products && device.is_cpu() {
            return Ok(self.products());
        }
        let mut repeat = self.repeat(&device)?;
        let seconds = self.timed(&device, &mut repeat)?;
        let amount = match self.task {
            Task::Products => (gpu::SIDE as f64).powi(3),
            Task::Loader => (self.batch()? * LOADER_BATCHES) as f64,
            Task::Train | Task::Infer | Task::Kernels => self.batch()? as f64,
        };
        Ok(Sample {
            amount,
            seconds,
            peak_rss_bytes: peak_memory_bytes(),
            peak_device_bytes: peak_device_bytes(&device)?,
        })
    }

    /// What is repeated, on `device`, which is not waited for.
    pub(super) fn repeat(&self, device: &Device) -> Result<Repeat> {
        Ok(match self.task {
            Task::Products => gpu::product(self.precision, device)?,
            Task::Train | Task::Kernels => self.training(device)?,
            Task::Infer => self.inference(device)?,
            Task::Loader => self.loading()?,
        })
    }

    /// Seconds of every repetition, after some that do not count. A GPU goes through several at a time.
    pub(super) fn timed(
        &self,
        device: &Device,
        repeat: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<f64>> {
        let together = if device.is_cpu() {
            1
        } else {
            UNTIL_A_GPU_IS_WAITED_FOR
        };
        let seconds = timed(self.steps, &mut || {
            for _ in 0..together {
                repeat()?;
            }
            Ok(device.synchronize()?)
        })?;
        Ok(seconds
            .into_iter()
            .map(|seconds| seconds / together as f64)
            .collect())
    }

    fn training(&self, device: &Device) -> Result<Repeat> {
        let recipe = self.recipe()?;
        self.precision.set_up(device)?;
        let parameters = Parameters::from_seed(&recipe.model, 0, device)?;
        let images = pictures(&recipe.model, self.batch()?, device)?;
        let batch = Batch {
            images: images.clone(),
            labels: Tensor::zeros(self.batch()?, DType::U32, &Device::Cpu)?,
            mixed: None,
            indices: Vec::new(),
        };
        let classes = recipe.model.num_classes();
        let targets = Targets::new(&batch, classes, 0.0, &mut Upload::new(device))?;
        let mut adam = Adam::new(recipe.training.learning_rate);
        let (precision, recompute) = (self.precision, self.recompute);
        let copy = WorkingCopy::new(&parameters, &recipe.model, precision, recompute)?;
        Ok(Box::new(move || {
            let model = copy.model(&parameters)?;
            let mode = Mode::Training(Key::new(adam.steps()));
            let tape = Tape::start();
            let loss = targets.loss(&model.forward(&images, mode)?)?;
            let gradients = copy.gradients(tape, &loss, &parameters)?;
            Ok(adam.step(&parameters, &gradients)?)
        }))
    }

    fn inference(&self, device: &Device) -> Result<Repeat> {
        let recipe = self.recipe()?;
        self.precision.set_up(device)?;
        let parameters = Parameters::from_seed(&recipe.model, 0, device)?;
        let model = parameters.inference_model_in(&recipe.model, self.precision.dtype())?;
        let images = pictures(&recipe.model, self.batch()?, device)?;
        Ok(Box::new(move || {
            model.forward(&images, Mode::Inference)?;
            Ok(())
        }))
    }

    fn loading(&self) -> Result<Repeat> {
        let recipe = self.recipe()?;
        let data = perceiver_data::Source::Shapes.load(Split::Train, &recipe.load_options())?;
        let preprocessing = Preprocessing {
            image_size: recipe.model.image_size,
            antialias: recipe.data.antialias,
            fit: recipe.data.fit,
            normalization: Normalization::adapt(&data)?,
        };
        let config = LoaderConfig {
            batch_size: self.batch()?,
            shuffle: true,
            augmentation: Some(recipe.data.augmentation),
            ..LoaderConfig::default()
        };
        let loader = Loader::new(Arc::new(data), preprocessing, config)?;
        let mut batches = (0..).flat_map(move |epoch| loader.epoch(epoch, 0));
        Ok(Box::new(move || {
            for batch in batches.by_ref().take(LOADER_BATCHES) {
                batch?;
            }
            Ok(())
        }))
    }

    /// The better of two ways to multiply: one large product on all cores, or one small product a core.
    fn products(&self) -> Sample {
        let threads = rayon::current_num_threads();
        let large = product_seconds(self.steps, 2_048, 1, gemm::Parallelism::Rayon(0));
        let small = product_seconds(self.steps, 256, 256 * threads, gemm::Parallelism::None);
        let (large_amount, small_amount) =
            (2_048f64.powi(3), 256f64.powi(3) * (256 * threads) as f64);
        let best = |seconds: &[f64]| seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let large_is_better = large_amount / best(&large) > small_amount / best(&small);
        let (amount, seconds) = if large_is_better {
            (large_amount, large)
        } else {
            (small_amount, small)
        };
        Sample {
            amount,
            seconds,
            peak_rss_bytes: peak_memory_bytes(),
            peak_device_bytes: None,
        }
    }
}

/// Seconds of `steps` repetitions, after two that do not count.
fn timed(steps: usize, repeat: &mut dyn FnMut() -> Result<()>) -> Result<Vec<f64>> {
    repeat()?;
    repeat()?;
    let mut seconds = Vec::with_capacity(steps);
    for _ in 0..steps {
        let start = Instant::now();
        repeat()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

/// Random preprocessed pictures `[batch, 3, side, side]`.
fn pictures(config: &PerceiverConfig, batch: usize, device: &Device) -> Result<Tensor> {
    let side = config.image_size;
    let values = (0..batch * 3 * side * side)
        .map(|index| (Key::new(0).bits(index as u64) >> 40) as f32 / 8_388_608.0 - 1.0)
        .collect();
    Ok(Tensor::from_vec(values, (batch, 3, side, side), device)?)
}

/// Seconds of `count` products of square matrices, on all threads at once.
#[allow(unsafe_code)]
fn product_seconds(
    steps: usize,
    side: usize,
    count: usize,
    parallelism: gemm::Parallelism,
) -> Vec<f64> {
    let matrix = vec![0.5f32; side * side];
    let mut outputs = vec![0f32; side * side * count.min(2 * rayon::current_num_threads())];
    let per_output = count.div_ceil(outputs.len() / (side * side));
    let stride = side.cast_signed();
    let mut repeat = || {
        outputs.par_chunks_mut(side * side).for_each(|output| {
            for _ in 0..per_output {
                // SAFETY: all three matrices are `side` by `side`, row by row, in slices of that size.
                unsafe {
                    gemm::gemm(
                        side,
                        side,
                        side,
                        output.as_mut_ptr(),
                        1,
                        stride,
                        false,
                        matrix.as_ptr(),
                        1,
                        stride,
                        matrix.as_ptr(),
                        1,
                        stride,
                        0f32,
                        1f32,
                        false,
                        false,
                        false,
                        parallelism,
                    );
                }
            }
        });
        Ok(())
    };
    timed(steps, &mut repeat).unwrap_or_default()
}
