//! The timed work of our own processes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use clap::{Args, ValueEnum};
use perceiver_data::{Batch, Loader, LoaderConfig, Normalization, Preprocessing, Split};
use perceiver_model::{Architecture, Parameters, Summary};
use perceiver_ops::{Mode, RngKey, Tape, Upload, peak_device_bytes};
use perceiver_train::{
    Adam, DeviceChoice, MixedPrecision, Optimizer, Precision, Preset, Recipe, Targets,
    peak_memory_bytes,
};
use rayon::prelude::*;

use super::gpu;
use super::worker::Sample;
use crate::error::Result;

/// The number of batches per repetition of [`Task::Loader`]: many more than are prefetched when the
/// timer starts.
const LOADER_BATCHES: usize = 64;

/// The work of a repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// Matrix products alone, at least as large as the model's: the peak rate of the machine.
    Products,
    /// A training step: forward, backward, Adam.
    Train,
    /// A forward pass.
    Infer,
    /// An augmented batch from the loader.
    Loader,
    /// A training step with profiled kernels.
    Kernels,
}

/// A function that runs one repetition.
pub(super) type Repeat = Box<dyn FnMut() -> Result<()>>;

/// The work of one process.
#[derive(Args, Clone, Debug)]
pub struct Workload {
    /// The work of a repetition.
    #[arg(value_enum)]
    pub task: Task,
    /// The preset of the model.
    #[arg(long)]
    pub preset: Preset,
    /// Number of images per batch.
    #[arg(long)]
    pub batch_size: Option<usize>,
    /// Side length of images in pixels, if not the preset's.
    #[arg(long)]
    pub image_size: Option<usize>,
    /// Train with activation checkpointing.
    #[arg(long)]
    pub recompute: bool,
    /// Device to compute on.
    #[arg(long)]
    pub device: DeviceChoice,
    /// Compute precision.
    #[arg(long)]
    pub precision: Precision,
    /// Number of timed repetitions.
    #[arg(long)]
    pub steps: usize,
    /// Repeat without end, and print `step N` after every repetition of N images.
    #[arg(long)]
    pub forever: bool,
}

/// The number of repetitions enqueued on a GPU before synchronizing, as in training.
const UNTIL_A_GPU_IS_WAITED_FOR: usize = 10;

impl Workload {
    /// Returns the command-line arguments from which [`Workload`] is parsed.
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
        arguments.extend(self.forever.then(|| "--forever".to_owned()));
        arguments
    }

    /// Returns the recipe.
    ///
    /// # Errors
    /// When no recipe allows this image size.
    pub fn recipe(&self) -> Result<Recipe> {
        let changes = self
            .image_size
            .map(|side| format!("model.image_size = {side}"));
        let layers = [
            (self.preset.name(), self.preset.toml()),
            ("--image-size", changes.as_deref().unwrap_or_default()),
        ];
        Ok(Recipe::from_layers(&layers)?)
    }

    /// Returns the batch size.
    ///
    /// # Errors
    /// As [`Workload::recipe`].
    pub fn batch(&self) -> Result<usize> {
        Ok(self
            .batch_size
            .unwrap_or(self.recipe()?.training.batch_size))
    }

    /// Returns the multiply-adds per image, with the cheapest form of attention. A training step
    /// has the products of the forward pass and, for each of them, those of two gradients. Products
    /// of weights, computed once per batch, are not counted.
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

    /// Runs the work and returns the measurements as a line of JSON.
    ///
    /// # Errors
    /// As [`Workload::run`].
    pub fn output(&self) -> Result<String> {
        let output = match self.task {
            Task::Kernels => serde_json::to_string(&gpu::kernels(self)?),
            _ => serde_json::to_string(&self.run()?),
        };
        Ok(output.unwrap_or_default())
    }

    /// Repeats the work until `step` fails, which gets the work of every repetition, in images or
    /// multiply-adds.
    ///
    /// # Errors
    /// As [`Workload::run`], or that of `step`.
    pub fn run_forever(&self, step: &mut dyn FnMut(f64) -> Result<()>) -> Result<Infallible> {
        let device = self.device.open()?;
        let (amount, mut repeat) = if self.task == Task::Products && device.is_cpu() {
            fastest_products()
        } else {
            (self.amount()?, self.repeat(&device)?)
        };
        loop {
            repeat()?;
            device.synchronize()?;
            step(amount)?;
        }
    }

    /// Runs and times the work.
    ///
    /// # Errors
    /// When the device cannot be opened, or candle rejects an operation.
    pub fn run(&self) -> Result<Sample> {
        let device = self.device.open()?;
        if self.task == Task::Products && device.is_cpu() {
            return Ok(self.products());
        }
        let mut repeat = self.repeat(&device)?;
        let seconds = self.timed(&device, &mut repeat)?;
        Ok(Sample {
            amount: self.amount()?,
            seconds,
            peak_rss_bytes: peak_memory_bytes(),
            peak_device_bytes: peak_device_bytes(&device)?,
        })
    }

    /// Returns the work of a repetition of [`Workload::repeat`], in images or multiply-adds.
    fn amount(&self) -> Result<f64> {
        Ok(match self.task {
            Task::Products => (gpu::SIDE as f64).powi(3),
            Task::Loader => (self.batch()? * LOADER_BATCHES) as f64,
            Task::Train | Task::Infer | Task::Kernels => self.batch()? as f64,
        })
    }

    /// Returns the repetition on `device`, without synchronization.
    pub(super) fn repeat(&self, device: &Device) -> Result<Repeat> {
        Ok(match self.task {
            Task::Products => gpu::product(self.precision, device)?,
            Task::Train | Task::Kernels => self.training(device)?,
            Task::Infer => self.inference(device)?,
            Task::Loader => self.loading()?,
        })
    }

    /// Returns the duration of every repetition in seconds, after a warm-up. A GPU runs several per
    /// synchronization.
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
        let images = random_images(&recipe.model, self.batch()?, device)?;
        let batch = Batch {
            images: images.clone(),
            labels: Tensor::zeros(self.batch()?, DType::U32, &Device::Cpu)?,
            mixed: None,
            indices: Vec::new(),
        };
        let classes = recipe.model.num_classes();
        let targets = Targets::new(&batch, classes, 0.0, None, &mut Upload::new(device))?;
        let mut adam = Adam::new(recipe.training.learning_rate);
        let (precision, recompute) = (self.precision, self.recompute);
        let copy = MixedPrecision::new(&parameters, &recipe.model, precision, recompute)?;
        Ok(Box::new(move || {
            let model = copy.model(&parameters)?;
            let mode = Mode::Training(RngKey::new(adam.steps()));
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
        let images = random_images(&recipe.model, self.batch()?, device)?;
        Ok(Box::new(move || {
            model.forward(&images, Mode::Inference)?;
            Ok(())
        }))
    }

    fn loading(&self) -> Result<Repeat> {
        let recipe = self.recipe()?;
        let data = perceiver_data::Source::Shapes.load(Split::Train, &recipe.load_options())?;
        let preprocessing = Preprocessing {
            image_size: recipe.model.image_size(),
            antialias: recipe.data.antialias,
            fit: recipe.data.fit,
            normalization: Normalization::adapt(&data)?,
            transformers: None,
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

    /// Measures the faster of the ways to multiply.
    fn products(&self) -> Sample {
        let ways = ways_to_multiply()
            .into_iter()
            .map(|(amount, mut repeat)| Sample {
                amount,
                seconds: timed(self.steps, &mut repeat).unwrap_or_default(),
                peak_rss_bytes: peak_memory_bytes(),
                peak_device_bytes: None,
            });
        let best = |sample: &Sample| sample.per_second().fold(0.0, f64::max);
        ways.max_by(|a, b| best(a).total_cmp(&best(b)))
            .unwrap_or_else(|| unreachable!("there are two ways"))
    }
}

/// Returns the fastest way to multiply on the CPU, with its multiply-adds per repetition.
fn fastest_products() -> (f64, Repeat) {
    let rate = |(amount, repeat): &mut (f64, Repeat)| {
        let seconds = timed(1, repeat).unwrap_or_default();
        seconds.first().map_or(0.0, |seconds| *amount / seconds)
    };
    let [mut large, mut small] = ways_to_multiply();
    if rate(&mut large) > rate(&mut small) {
        large
    } else {
        small
    }
}

/// Returns two ways to multiply, with their multiply-adds per repetition: one large product on all
/// cores, or small products, one per core.
fn ways_to_multiply() -> [(f64, Repeat); 2] {
    let count = 256 * rayon::current_num_threads();
    [
        (
            2_048f64.powi(3),
            products(2_048, 1, gemm::Parallelism::Rayon(0)),
        ),
        (
            256f64.powi(3) * count as f64,
            products(256, count, gemm::Parallelism::None),
        ),
    ]
}

/// Returns the duration of `steps` repetitions in seconds, after two warm-up repetitions.
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

/// Returns random preprocessed images `[batch, 3, side, side]`.
fn random_images(config: &impl Architecture, batch: usize, device: &Device) -> Result<Tensor> {
    let side = config.image_size();
    let values = (0..batch * 3 * side * side)
        .map(|index| (RngKey::new(0).bits(index as u64) >> 40) as f32 / 8_388_608.0 - 1.0)
        .collect();
    Ok(Tensor::from_vec(values, (batch, 3, side, side), device)?)
}

/// Returns a repetition of `count` products of square matrices, on all threads at once.
#[allow(unsafe_code)]
fn products(side: usize, count: usize, parallelism: gemm::Parallelism) -> Repeat {
    let matrix = vec![0.5f32; side * side];
    let mut outputs = vec![0f32; side * side * count.min(2 * rayon::current_num_threads())];
    let per_output = count.div_ceil(outputs.len() / (side * side));
    let stride = side.cast_signed();
    Box::new(move || {
        outputs.par_chunks_mut(side * side).for_each(|output| {
            for _ in 0..per_output {
                // SAFETY: all three matrices are `side` by `side`, row-major, in slices of that
                // size.
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
    })
}
