//! Times Perceiver IO models of full size on one image, in turns with plain matrix products.
//!
//! ```sh
//! cargo run --release -p perceiver-model --example perceiver_io_speed            # all three models
//! cargo run --release -p perceiver-model --example perceiver_io_speed -- conv 9  # one, and how often
//! cargo run --release -p perceiver-model --example perceiver_io_speed -- conv forever
//! ```
//!
//! `forever` prints `step 1` after every pass, as the peer `tests/oracle/torch_perceiver_io_speed.py`
//! does, so that both can be woken in turns.
//!
//! Weights are random; images have 224 x 224 pixels. Every model runs in a process of its own, in the
//! environment that the command-line program sets for itself, and a matrix product with as many
//! multiply-adds as transformers needs for the model follows each pass. Figures are medians, with the
//! fastest in parentheses. The processor time, on Linux, hardly depends on other programs.

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

/// The argument for passes without end.
const FOREVER: &str = "forever";

const KINDS: [(&str, InputKind); 3] = [
    ("learned", InputKind::Learned),
    ("fourier", InputKind::Fourier),
    ("conv", InputKind::Conv),
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let kind = arguments.first().map(String::as_str);
    let times = match arguments.get(1).map(String::as_str) {
        Some(FOREVER) => None,
        Some(times) => Some(times.parse::<usize>()?.max(1)),
        None => Some(7),
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
fn run(name: &str, times: Option<usize>) -> Result<(), Box<dyn Error>> {
    let status = Command::new(std::env::current_exe()?)
        .args([
            name,
            &times.map_or(FOREVER.into(), |times| times.to_string()),
        ])
        .envs(ENVIRONMENT)
        .status()?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{name}: {status}").into())
}

fn measure(name: &str, kind: InputKind, times: Option<usize>) -> Result<(), Box<dyn Error>> {
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
    let Some(times) = times else {
        loop {
            model.forward(&images, Mode::Inference)?;
            println!("step 1");
        }
    };
    let work = multiply_adds(kind);
    let products = Products::new(work)?;
    let (mut of_model, mut of_products) = (Vec::new(), Vec::new());
    for round in 0..=times {
        let model = Duration::of(|| model.forward(&images, Mode::Inference).map(drop))?;
        let products = Duration::of(|| products.run())?;
        // The first pass warms up.
        if round > 0 {
            of_model.push(model);
            of_products.push(products);
        }
    }
    let wall = |durations: &[Duration]| figures(durations.iter().map(|of| of.wall));
    let ratios = |part: fn(&Duration) -> f64| {
        let pairs = of_model.iter().zip(&of_products);
        figures(pairs.map(|(model, products)| part(model) / part(products)))
    };
    let [ms, least_ms] = wall(&of_model).map(|seconds| 1000.0 * seconds);
    let [rate, best] = wall(&of_products).map(|seconds| 2e-9 * work / seconds);
    let [ratio, least] = ratios(|of| of.wall);
    let [cpu_ratio, least_cpu] = ratios(|of| of.processor);
    println!(
        "{name}: {ms:.0} ms an image ({least_ms:.0}), {:.0} GFLOP/s; products: {rate:.0} GFLOP/s ({best:.0}); time as a \
         multiple of the products': {ratio:.2} ({least:.2}), of the processors: {cpu_ratio:.2} ({least_cpu:.2}); peak \
         memory {}",
        2e-6 * work / ms,
        peak_memory()
    );
    Ok(())
}

/// How long a call took, in seconds.
struct Duration {
    wall: f64,
    /// The time of all threads on a processor; `NaN` where the system does not say it.
    processor: f64,
}

impl Duration {
    fn of<E>(call: impl FnOnce() -> Result<(), E>) -> Result<Self, E> {
        let (start, processor) = (Instant::now(), processor_seconds());
        call()?;
        Ok(Self {
            wall: start.elapsed().as_secs_f64(),
            processor: processor_seconds() - processor,
        })
    }
}

/// Returns the time of all threads on a processor so far, in seconds.
fn processor_seconds() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return f64::NAN;
    };
    let nanoseconds = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    1e-9 * nanoseconds.sum::<f64>()
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

/// Returns the median and the least of some values.
fn figures(values: impl Iterator<Item = f64>) -> [f64; 2] {
    let mut values: Vec<f64> = values.collect();
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
