//! Times Perceiver IO models of full size on one image, in turns with plain matrix products.
//!
//! ```sh
//! cargo run --release -p perceiver-model --example perceiver_io_speed            # all three models
//! cargo run --release -p perceiver-model --example perceiver_io_speed -- conv 9  # one, and how often
//! ```
//!
//! Weights are random; images have 224 x 224 pixels. Every model runs in a process of its own, in the
//! environment that the command-line program sets for itself, and a matrix product with as many
//! multiply-adds as transformers needs for the model follows each pass. Figures are medians, with the
//! fastest in parentheses.

use std::error::Error;
use std::process::Command;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use perceiver_model::{InputKind, Parameters, PerceiverIoConfig};
use perceiver_ops::{Mode, Transpose, batched_matmul};

const LATENTS: usize = 512;
const WIDTH: usize = 1024;
const LAYERS: usize = 48;

/// As in the program: candle's threads would take cores from those that do the work, and freed memory
/// is kept.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("CANDLE_NUM_THREADS", "1"),
    ("MALLOC_MMAP_MAX_", "0"),
    ("MALLOC_TRIM_THRESHOLD_", "1000000000000"),
    ("MALLOC_TOP_PAD_", "67108864"),
];

const KINDS: [(&str, InputKind); 3] = [
    ("learned", InputKind::Learned),
    ("fourier", InputKind::Fourier),
    ("conv", InputKind::Conv),
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let kind = arguments.first().map(String::as_str);
    let times = match arguments.get(1) {
        Some(times) => times.parse::<usize>()?.max(1),
        None => 7,
    };
    match KINDS.into_iter().find(|(name, _)| Some(*name) == kind) {
        Some((name, kind)) if is_prepared() => measure(name, kind, times),
        Some((name, _)) => run(name, times),
        None => KINDS.iter().try_for_each(|(name, _)| run(name, times)),
    }
}

fn is_prepared() -> bool {
    ENVIRONMENT
        .iter()
        .all(|(name, _)| std::env::var_os(name).is_some())
}

/// Runs the measurement of a model in a process of its own.
fn run(name: &str, times: usize) -> Result<(), Box<dyn Error>> {
    let status = Command::new(std::env::current_exe()?)
        .args([name, &times.to_string()])
        .envs(ENVIRONMENT)
        .status()?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{name}: {status}").into())
}

fn measure(name: &str, kind: InputKind, times: usize) -> Result<(), Box<dyn Error>> {
    gemm::set_lhs_packing_threshold_single_thread(24); // as the program does
    let config = PerceiverIoConfig {
        input: kind,
        num_latents: LATENTS,
        d_latents: WIDTH,
        num_blocks: 8,
        num_self_attends_per_block: LAYERS / 8,
        num_cross_attention_heads: 1,
        image_size: 224,
        num_labels: Some(1000),
        ..PerceiverIoConfig::default()
    };
    let parameters = Parameters::from_seed(&config, 1, &Device::Cpu)?;
    let model = parameters.inference_model(&config)?;
    drop(parameters);
    let images = Tensor::rand(-1f32, 1f32, (1, 3, 224, 224), &Device::Cpu)?;
    let work = multiply_adds(kind);
    let products = Products::new(work)?;
    let (mut of_model, mut of_products) = (Vec::new(), Vec::new());
    for round in 0..=times {
        let start = Instant::now();
        model.forward(&images, Mode::Inference)?;
        let between = Instant::now();
        products.run()?;
        // The first pass warms up.
        if round > 0 {
            of_model.push((between - start).as_secs_f64());
            of_products.push(between.elapsed().as_secs_f64());
        }
    }
    let mut ratios: Vec<f64> = of_model
        .iter()
        .zip(&of_products)
        .map(|(model, products)| model / products)
        .collect();
    let [ms, best] = median_and_least(&mut of_model).map(|seconds| 1000.0 * seconds);
    let [products, fastest] =
        median_and_least(&mut of_products).map(|seconds| 2e-9 * work / seconds);
    let [ratio, least] = median_and_least(&mut ratios);
    println!(
        "{name}: {ms:.0} ms an image ({best:.0}), {:.0} GFLOP/s; products: {products:.0} GFLOP/s ({fastest:.0}); time as a \
         multiple of the products': {ratio:.2} ({least:.2}); peak memory {}",
        2e-6 * work / ms,
        peak_memory()
    );
    Ok(())
}

/// The multiply-adds of a model with keys and values projected, as transformers computes it.
fn multiply_adds(kind: InputKind) -> f64 {
    let tokens = match kind {
        InputKind::Learned | InputKind::Fourier => 224 * 224,
        InputKind::Conv => 55 * 55,
    };
    let [tokens, inner] = [tokens, kind.token_width()].map(|size| size as f64);
    let [latents, width] = [LATENTS, WIDTH].map(|size| size as f64);
    let mlp = 2.0 * latents * width * width;
    let own = 4.0 * latents * width * width + 2.0 * latents * latents * width + mlp;
    let cross = 2.0 * inner * (latents * width + tokens * inner + latents * tokens) + mlp;
    let decoder = 2.0 * latents * width * width;
    LAYERS as f64 * own + cross + decoder
}

/// Products of latents and weights, one for each core at a time.
struct Products {
    left: Tensor,
    right: Tensor,
    count: usize,
}

impl Products {
    fn new(multiply_adds: f64) -> candle_core::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let of_one = (LATENTS * WIDTH * WIDTH * cores) as f64;
        Ok(Self {
            left: Tensor::ones((cores, LATENTS, WIDTH), DType::F32, &Device::Cpu)?,
            right: Tensor::ones((cores, WIDTH, WIDTH), DType::F32, &Device::Cpu)?,
            count: (multiply_adds / of_one).round() as usize,
        })
    }

    fn run(&self) -> candle_core::Result<()> {
        for _ in 0..self.count {
            batched_matmul(&self.left, &self.right, Transpose::Neither)?;
        }
        Ok(())
    }
}

fn median_and_least(values: &mut [f64]) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [values[values.len() / 2], values[0]]
}

/// The most memory of this process so far, where the system says it.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    match kilobytes {
        Some(kilobytes) => format!("{:.0} MB", kilobytes / 1000.0),
        None => "unknown".to_string(),
    }
}
