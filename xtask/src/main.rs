//! `cargo xtask`: the workspace's chores.

// The one place that writes is `perceiver_cli::terminal`.
#![warn(clippy::print_stderr, clippy::print_stdout)]

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use perceiver_cli::terminal::{self, OutputError};
use perceiver_data::{LoadOptions, Split};
use perceiver_train::{DeviceChoice, Precision, Preset};
use xtask::bench::workload::Workload;
use xtask::bench::{self, Bench, Subject};
use xtask::build_cost;
use xtask::cargo::cargo;
use xtask::download::HttpOptions;
use xtask::fetch::{Fetch, Origin, Outcome};
use xtask::goldens::Goldens;
use xtask::measure::{self, Measure};
use xtask::observer::Terminal;
use xtask::pictures;
use xtask::plot::{By, Metric, Plot};
use xtask::spec::DatasetSpec;

/// Chores of the workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Bring a data set into the data directory, checked to the last byte.
    FetchData(FetchData),
    /// Write pictures of a data set as PNG files, to look at or to try `perceiver predict` on.
    SavePictures(SavePictures),
    /// Regenerate the parity tests' numbers with Keras.
    Goldens(GoldensArguments),
    /// Measure how fast the model trains, predicts and starts on this machine.
    Bench(BenchArguments),
    /// Measure a device: operations beside the CPU's, speed, and presets trained to their verdicts.
    Measure(MeasureArguments),
    /// Draw curves of one or more runs, as an SVG picture.
    Plot(PlotArguments),
    /// Show what building costs: packages, CPU seconds by package, versions built twice.
    BuildCost(BuildCostArguments),
    /// One process of a benchmark.
    #[command(hide = true)]
    BenchWorker(Workload),
}

#[derive(Args)]
struct FetchData {
    /// The data set.
    #[arg(long, value_enum, default_value_t = Name::Cifar100)]
    dataset: Name,
    /// Where to download it from.
    #[arg(long, value_enum, default_value_t = Source::Toronto, conflicts_with = "from")]
    source: Source,
    /// A copy of it: a directory with it, its .tar.gz archive, or another address of the archive.
    #[arg(long, value_name = "DIR|ARCHIVE|URL")]
    from: Option<String>,
    /// The directory that it comes into.
    #[arg(long, default_value_os_t = workspace().join("data"))]
    data_dir: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    Cifar100,
    Cifar10,
}

#[derive(Clone, Copy, ValueEnum)]
enum Source {
    /// The authors' archive.
    Toronto,
    /// The Parquet files on the Hugging Face Hub.
    Hub,
}

#[derive(Args)]
struct SavePictures {
    /// The data set: cifar100, cifar10, shapes, folder:DIR or hf:USER/NAME.
    #[arg(long, default_value = "shapes")]
    dataset: perceiver_data::Source,
    /// Which part of it.
    #[arg(long, value_enum, default_value_t = Part::Test)]
    split: Part,
    /// How many pictures, from the first on.
    #[arg(long, default_value_t = 20)]
    count: usize,
    /// The directory that fetched data sets lie in.
    #[arg(long, default_value_os_t = workspace().join("data"))]
    data_dir: PathBuf,
    /// The directory that the pictures go into.
    #[arg(long, default_value = "pictures")]
    output: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    Train,
    Test,
}

#[derive(Args)]
struct GoldensArguments {
    /// A Python with keras, jax, numpy and safetensors.
    #[arg(long, default_value = "python3")]
    python: String,
    /// Seed of all random input.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The directory that the files go into.
    #[arg(long, default_value_os_t = workspace().join("tests/fixtures/golden"))]
    out: PathBuf,
    /// A JSON file with the configuration of one more Perceiver; may be given several times.
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
}

#[derive(Args)]
#[command(
    after_help = "Figures are medians over all rounds, with the least and the most. Compare within one run only.

Examples:
  cargo xtask bench --only train --batch-size 16
  cargo xtask bench --only ranks --batch-size 16 --steps 16
  cargo xtask bench --json bench.json --peers .venv/bin/python
  cargo xtask bench --device cuda --only train,infer,kernels --peers .venv/bin/python"
)]
struct BenchArguments {
    /// Only these benchmarks.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Subject>,
    /// The preset whose model is measured.
    #[arg(long, default_value_t = Preset::Keras)]
    preset: Preset,
    /// Pictures in a batch, if not the preset's number; of several, one after another. On a GPU 64, 256 and 1024.
    #[arg(long, value_delimiter = ',')]
    batch_size: Vec<NonZeroUsize>,
    /// Train with recomputation, as `perceiver train --recompute` does.
    #[arg(long)]
    recompute: bool,
    /// Where to compute: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// In what numbers: f32, tf32 or bf16; on a GPU bf16.
    #[arg(long)]
    precision: Option<Precision>,
    /// How often every process is started.
    #[arg(long, default_value = "3")]
    rounds: NonZeroUsize,
    /// How many repetitions a process times, after two that do not count.
    #[arg(long, default_value = "3")]
    steps: NonZeroUsize,
    /// Also write the figures here, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure Keras and PyTorch too, in turns, with this Python.
    #[arg(long, value_name = "PYTHON")]
    peers: Option<String>,
}

#[derive(Args)]
#[command(
    after_help = "The same command goes on with what it was kept from finishing.

Examples:
  cargo xtask measure --device cuda --peers .venv/bin/python --output runs/gpu
  cargo xtask measure --device cuda --only learning --presets cifar100 --seeds 3 --output runs/gpu
  cargo xtask measure --device cpu --only learning --presets cifar100 --output runs/try -- --epochs 1 --limit-train 64"
)]
struct MeasureArguments {
    /// Only these.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<measure::Part>,
    /// Where to compute: cpu, cuda, cuda:N or metal.
    #[arg(long, default_value = "cuda")]
    device: DeviceChoice,
    /// In what numbers: f32, tf32 or bf16 [default: bf16, on the CPU f32].
    #[arg(long)]
    precision: Option<Precision>,
    /// The presets to train.
    #[arg(long, value_delimiter = ',', default_values_t = measure::PRESETS)]
    presets: Vec<Preset>,
    /// With how many seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Where CIFAR-100 lies.
    #[arg(long, value_name = "DIR", default_value_os_t = workspace().join("data"))]
    data_dir: PathBuf,
    /// The directory of the runs and of what was found.
    #[arg(long, value_name = "DIR", default_value = "runs/measured")]
    output: PathBuf,
    /// Measure PyTorch's speed too, in turns, with this Python.
    #[arg(long, value_name = "PYTHON")]
    peers: Option<String>,
    /// More flags for `perceiver train`.
    #[arg(last = true, value_name = "FLAG")]
    flags: Vec<String>,
}

#[derive(Args)]
#[command(after_help = "Example:
  cargo xtask plot runs/comparison/*-seed0 --output curves.svg --by minutes")]
struct PlotArguments {
    /// Directories of runs, by whose names the curves are called.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The picture.
    #[arg(long, value_name = "FILE.svg")]
    output: PathBuf,
    /// What is drawn.
    #[arg(long, value_enum, default_value_t = Metric::ValAcc)]
    metric: Metric,
    /// Over what.
    #[arg(long, value_enum, default_value_t = By::Epoch)]
    by: By,
    /// What stands above it.
    #[arg(long, value_name = "T")]
    title: Option<String>,
}

#[derive(Args)]
#[command(after_help = "Examples:
  cargo xtask build-cost              # from an empty target directory: minutes
  cargo xtask build-cost --check      # counts packages alone, against xtask/build-budget.toml")]
struct BuildCostArguments {
    /// Build nothing; fail when the build has grown beyond its budget or the two commands of the README share less.
    #[arg(long)]
    check: bool,
    /// How many packages to list, the most expensive first.
    #[arg(long, default_value_t = 40)]
    rows: usize,
}

fn build_cost(arguments: &BuildCostArguments) -> Result<()> {
    let graph = build_cost::Graph::read(workspace())?;
    terminal::print(graph.summary())?;
    if arguments.check {
        let budget = build_cost::Budget::read(&workspace().join("xtask/build-budget.toml"))?;
        return Ok(graph.require(&budget)?);
    }
    let costs = build_cost::measure(workspace())?;
    terminal::print(costs.table(arguments.rows))?;
    Ok(())
}

fn plot(arguments: PlotArguments) -> Result<()> {
    let PlotArguments {
        runs,
        output,
        metric,
        by,
        title,
    } = arguments;
    let plot = Plot {
        runs,
        metric,
        by,
        title,
    };
    plot.write(&output)?;
    terminal::print(format_args!("drawn: {}", output.display()))?;
    Ok(())
}

fn run_bench(arguments: BenchArguments) -> Result<()> {
    if let Some(feature) = missing_feature(arguments.device) {
        return with_feature(feature);
    }
    let bench = Bench {
        only: arguments.only,
        preset: arguments.preset,
        batch_sizes: match &arguments.batch_size[..] {
            [] => bench::usual_batch_sizes(arguments.device),
            sizes => sizes.iter().map(|size| size.get()).collect(),
        },
        recompute: arguments.recompute,
        device: arguments.device,
        precision: arguments
            .precision
            .unwrap_or_else(|| bench::usual_precision(arguments.device)),
        peers: arguments.peers,
        rounds: arguments.rounds.get(),
        steps: arguments.steps.get(),
        scripts: workspace().join("tests/oracle"),
    };
    let report = bench.run(&Terminal::default())?;
    terminal::print(report.table())?;
    if let Some(path) = arguments.json {
        report.write_json(&path)?;
    }
    Ok(())
}

fn measure(arguments: MeasureArguments) -> Result<()> {
    let device = arguments.device;
    if let Some(feature) = missing_feature(device) {
        return with_feature(feature);
    }
    let bench = Bench {
        only: measure::SUBJECTS.to_vec(),
        preset: Preset::Keras,
        batch_sizes: bench::usual_batch_sizes(device),
        recompute: false,
        device,
        precision: arguments
            .precision
            .unwrap_or_else(|| bench::usual_precision(device)),
        peers: arguments.peers,
        rounds: 3,
        steps: 3,
        scripts: workspace().join("tests/oracle"),
    };
    let measure = Measure {
        only: arguments.only,
        bench,
        presets: arguments.presets,
        seeds: arguments.seeds,
        data_dir: arguments.data_dir,
        output: arguments.output,
        flags: arguments.flags,
    };
    Ok(measure.run(&Terminal::default())?)
}

/// The Cargo feature that a device needs and this program was built without.
fn missing_feature(device: DeviceChoice) -> Option<&'static str> {
    match device {
        DeviceChoice::Cuda(_) if !cfg!(feature = "cuda") => Some("cuda"),
        DeviceChoice::Metal if !cfg!(feature = "metal") => Some("metal"),
        _ => None,
    }
}

/// Does the same by a program that is built with a feature.
fn with_feature(feature: &str) -> Result<()> {
    let status = cargo()
        .args(["run", "--package", "xtask", "--features", feature, "--"])
        .args(std::env::args_os().skip(1))
        .status()
        .with_context(|| format!("building xtask with --features {feature}"))?;
    std::process::exit(status.code().unwrap_or(1))
}

/// Measures this process and prints what it found.
fn bench_worker(workload: &Workload) -> Result<()> {
    // As the program does it: a benchmark of other settings would be one of another program.
    perceiver_cli::process_settings::apply();
    Ok(terminal::print(workload.found()?)?)
}

fn save_pictures(arguments: &SavePictures) -> Result<()> {
    let split = match arguments.split {
        Part::Train => Split::Train,
        Part::Test => Split::Test,
    };
    let options = LoadOptions {
        data_dir: arguments.data_dir.clone(),
        ..LoadOptions::default()
    };
    let (source, output) = (&arguments.dataset, &arguments.output);
    if !cfg!(feature = "hub") && matches!(source, perceiver_data::Source::Hub { .. }) {
        return with_feature("hub");
    }
    let paths = pictures::save(source, split, arguments.count, &options, output)?;
    let (count, output) = (paths.len(), output.display());
    Ok(terminal::print(format_args!(
        "{count} pictures written to {output}"
    ))?)
}

fn main() -> ExitCode {
    // Started by cargo in place of the compiler, to time it.
    if let Some(log) = std::env::var_os(build_cost::LOG) {
        match build_cost::time_compiler(log.as_ref()) {
            Ok(code) => std::process::exit(code),
            Err(error) => return failed(&error.into()),
        }
    }
    let chore = match Cli::try_parse() {
        Ok(cli) => cli.chore,
        Err(error) => {
            let has_colours = std::io::stderr().is_terminal();
            return perceiver_cli::show_arguments_error(error, has_colours);
        }
    };
    match run(chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Says what failed.
fn failed(error: &anyhow::Error) -> ExitCode {
    let output = error.downcast_ref::<OutputError>();
    if output.is_some_and(OutputError::is_unheard) {
        return ExitCode::SUCCESS;
    }
    terminal::error(perceiver_cli::in_one_line(error));
    ExitCode::FAILURE
}

fn run(chore: Chore) -> Result<()> {
    match chore {
        Chore::FetchData(arguments) => fetch_data(&arguments),
        Chore::SavePictures(arguments) => save_pictures(&arguments),
        Chore::Goldens(arguments) => {
            let goldens = Goldens {
                python: arguments.python,
                seed: arguments.seed,
                oracle: workspace().join("tests/oracle"),
                out: arguments.out,
                configs: arguments.config,
            };
            Ok(goldens.run(&Terminal::default())?)
        }
        Chore::Bench(arguments) => run_bench(arguments),
        Chore::Measure(arguments) => measure(arguments),
        Chore::Plot(arguments) => plot(arguments),
        Chore::BenchWorker(workload) => bench_worker(&workload),
        Chore::BuildCost(arguments) => build_cost(&arguments),
    }
}

fn fetch_data(arguments: &FetchData) -> Result<()> {
    let spec = match arguments.dataset {
        Name::Cifar100 => DatasetSpec::cifar100(),
        Name::Cifar10 => DatasetSpec::cifar10(),
    };
    let origin = match (&arguments.from, arguments.source) {
        (Some(from), _) => Origin::from_argument(from, &spec)?,
        (None, Source::Toronto) => Origin::Url(spec.archive_url.clone()),
        #[cfg(feature = "hub")]
        (None, Source::Hub) => hub_origin(arguments.dataset),
        // The Hub's client takes longer to compile than all other chores, so it is built when it is asked for.
        #[cfg(not(feature = "hub"))]
        (None, Source::Hub) => return with_feature("hub"),
    };
    let terminal = Terminal::default();
    let fetch = Fetch {
        spec: &spec,
        data_dir: &arguments.data_dir,
        http: HttpOptions::default(),
        observer: &terminal,
    };
    let there = match fetch.run(&origin)? {
        Outcome::AlreadyThere => "is already there",
        Outcome::Installed => "is there now",
    };
    Ok(terminal::print(format_args!(
        "{} {there}, checked: {}",
        spec.name,
        fetch.target().display()
    ))?)
}

#[cfg(feature = "hub")]
fn hub_origin(name: Name) -> Origin {
    use perceiver_data::{Cifar, HubDataset, HubProgress};
    use xtask::observer::Observer;

    let cifar = match name {
        Name::Cifar100 => Cifar::Hundred,
        Name::Cifar10 => Cifar::Ten,
    };
    let mut dataset = HubDataset::new(xtask::hub_source::hub_repo(cifar));
    let terminal = Terminal::default();
    dataset.access.on_progress = Some(std::sync::Arc::new(move |progress: &HubProgress| {
        terminal.progress(progress.done, progress.total);
    }));
    Origin::Hub(Box::new(dataset))
}

/// The root of the workspace, wherever it is called from.
fn workspace() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}
