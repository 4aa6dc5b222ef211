//! `cargo xtask`: development tasks of the workspace.

// Only `perceiver_cli::terminal` writes output.
#![warn(clippy::print_stderr, clippy::print_stdout)]

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use perceiver_cli::terminal::{self, OutputError};
use perceiver_data::{LoadOptions, Split};
use perceiver_train::{DeviceChoice, Precision, Preset};
use xtask::bench::alternation::Alternation;
use xtask::bench::interrupt::INTERRUPTED;
use xtask::bench::peers::{Peer, Peers};
use xtask::bench::workload::Workload;
use xtask::bench::{self, Bench, Subject};
use xtask::build_cost;
use xtask::cargo::cargo;
use xtask::download::HttpOptions;
use xtask::error::XtaskError;
use xtask::fetch::{Fetch, Origin, Outcome};
use xtask::goldens::Goldens;
use xtask::measure::{self, Measure};
use xtask::package;
use xtask::pictures;
use xtask::plot::{By, Metric, Plot};
use xtask::progress::Terminal;
use xtask::spec::DatasetSpec;

/// Run development tasks of the workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install a data set in the data directory, verified to the last byte.
    FetchData(FetchData),
    /// Write images of a data set as PNG files, to view or to try `perceiver predict` on.
    SavePictures(SavePictures),
    /// Regenerate the golden values of the parity tests with Keras.
    Goldens(GoldensArguments),
    /// Measure training, inference and startup speed on this machine.
    Bench(BenchArguments),
    /// Measure a device: parity of operations with the CPU, speed, and test results of presets.
    Measure(MeasureArguments),
    /// Plot training curves of one or more runs as SVG.
    Plot(PlotArguments),
    /// Show the cost of a build: packages, CPU seconds by package, packages built twice.
    BuildCost(BuildCostArguments),
    /// Make the packages of a release, and try them: compile their sources, and run the projects in
    /// tests/downstream with them.
    Package(PackageArguments),
    /// Run one process of a benchmark.
    #[command(hide = true)]
    BenchWorker(Workload),
}

#[derive(Args)]
struct FetchData {
    /// Data set to install.
    #[arg(long, value_enum, default_value_t = Name::Cifar100)]
    dataset: Name,
    /// Source of the download.
    #[arg(long, value_enum, default_value_t = Source::Toronto, conflicts_with = "from")]
    source: Source,
    /// Local copy or mirror: a directory with the data set, its .tar.gz archive, or another URL of
    /// the archive.
    #[arg(long, value_name = "DIR|ARCHIVE|URL")]
    from: Option<String>,
    /// Directory to install it in.
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
    /// Data set: cifar100, cifar10, shapes, folder:DIR or hf:USER/NAME.
    #[arg(long, default_value = "shapes")]
    dataset: perceiver_data::Source,
    /// Split to write.
    #[arg(long, value_enum, default_value_t = Part::Test)]
    split: Part,
    /// Number of images, from the first on.
    #[arg(long, default_value_t = 20)]
    count: usize,
    /// Directory of downloaded data sets.
    #[arg(long, default_value_os_t = workspace().join("data"))]
    data_dir: PathBuf,
    /// Directory to write the images to.
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
    /// Python interpreter with keras, jax, numpy and safetensors.
    #[arg(long, default_value = "python3")]
    python: String,
    /// Seed of all random input.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Directory to write the files to.
    #[arg(long, default_value_os_t = workspace().join("tests/fixtures/golden"))]
    out: PathBuf,
    /// JSON file with the configuration of an additional Perceiver; repeatable.
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
}

#[derive(Args)]
#[command(
    after_help = "Training and inference on a CPU are measured in turns: all programs are alive, and one at a time
is awake, for a slice per cycle, in random order. They must fit in memory together; --only-peers
and --precision measure fewer. All else runs one after another, round after round.

Figures are medians over slices or rounds, with minimum and maximum. Compare within one run only.

Examples:
  cargo xtask bench --only train --batch-size 16
  cargo xtask bench --precision bf16 --peers .venv/bin/python --only-peers pytorch-compiled
  cargo xtask bench --only ranks --batch-size 16 --steps 16
  cargo xtask bench --json bench.json --peers .venv/bin/python
  cargo xtask bench --device cuda --only train,infer,kernels --peers .venv/bin/python"
)]
struct BenchArguments {
    /// Run only these benchmarks.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Subject>,
    /// Preset of the model.
    #[arg(long, default_value_t = Preset::Keras)]
    preset: Preset,
    /// Batch sizes, measured one after another [default: 16 and 64 in training, 64 in inference; on a
    /// GPU 64, 256 and 1024].
    #[arg(long, value_delimiter = ',')]
    batch_size: Vec<NonZeroUsize>,
    /// Train with activation checkpointing, as `perceiver train --recompute` does.
    #[arg(long)]
    recompute: bool,
    /// Device to compute on: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Compute precisions, compared in training and inference: f32, tf32, bf16 [default: f32 and bf16;
    /// on a GPU bf16].
    #[arg(long, value_delimiter = ',')]
    precision: Vec<Precision>,
    /// Seconds that a program is awake per cycle, in turns on a CPU.
    #[arg(long, value_name = "SECONDS", default_value = "12", value_parser = slice_of)]
    slice: Duration,
    /// Number of cycles, in turns on a CPU; each program is awake once per cycle.
    #[arg(long, default_value = "8")]
    cycles: NonZeroUsize,
    /// Seed of the order of the programs in each cycle.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number of rounds, where processes run one after another; each runs once per round.
    #[arg(long, default_value = "3")]
    rounds: NonZeroUsize,
    /// Number of timed repetitions per such process, after two warm-up repetitions.
    #[arg(long, default_value = "3")]
    steps: NonZeroUsize,
    /// Also write the figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also measure PyTorch and Keras, if installed, with this Python interpreter.
    #[arg(long, value_name = "PYTHON")]
    peers: Option<String>,
    /// Measure only these peers, which must be installed.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        requires = "peers",
        value_name = "PEER"
    )]
    only_peers: Vec<Peer>,
}

/// Parses the length of a slice.
fn slice_of(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse()
        .ok()
        .filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "expected 0.1 to 3600 seconds".to_owned())
}

/// The number of steps before the first slice: the first of them compile.
const WARM_UP_STEPS: usize = 3;

#[derive(Args)]
#[command(after_help = "Repeat the command to resume an interrupted measurement.

Examples:
  cargo xtask measure --device cuda --peers .venv/bin/python --output runs/gpu
  cargo xtask measure --device cuda --only learning --presets cifar100 --seeds 3 --output runs/gpu
  cargo xtask measure --device cpu --only learning --presets cifar100 --output runs/try -- --epochs 1 --limit-train 64")]
struct MeasureArguments {
    /// Run only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<measure::Part>,
    /// Device to compute on: cpu, cuda, cuda:N or metal.
    #[arg(long, default_value = "cuda")]
    device: DeviceChoice,
    /// Compute precision: f32, tf32 or bf16 [default: bf16; on the CPU f32, and bf16 in the benchmarks].
    #[arg(long)]
    precision: Option<Precision>,
    /// Presets to train.
    #[arg(long, value_delimiter = ',', default_values_t = measure::PRESETS)]
    presets: Vec<Preset>,
    /// Number of seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Directory of CIFAR-100.
    #[arg(long, value_name = "DIR", default_value_os_t = workspace().join("data"))]
    data_dir: PathBuf,
    /// Directory of the runs and results.
    #[arg(long, value_name = "DIR", default_value = "runs/measured")]
    output: PathBuf,
    /// Also measure PyTorch, in turns, with this Python interpreter.
    #[arg(long, value_name = "PYTHON")]
    peers: Option<String>,
    /// Additional flags for `perceiver train`.
    #[arg(last = true, value_name = "FLAG")]
    flags: Vec<String>,
}

#[derive(Args)]
#[command(after_help = "Example:
  cargo xtask plot runs/comparison/*-seed0 --output curves.svg --by minutes")]
struct PlotArguments {
    /// Run directories; their names label the curves.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Output file.
    #[arg(long, value_name = "FILE.svg")]
    output: PathBuf,
    /// Metric to plot.
    #[arg(long, value_enum, default_value_t = Metric::ValAcc)]
    metric: Metric,
    /// Horizontal axis.
    #[arg(long, value_enum, default_value_t = By::Epoch)]
    by: By,
    /// Title above the plot.
    #[arg(long, value_name = "T")]
    title: Option<String>,
}

#[derive(Args)]
#[command(after_help = "Examples:
  cargo xtask build-cost              # from an empty target directory: minutes
  cargo xtask build-cost --check      # only counts packages, against xtask/build-budget.toml")]
struct BuildCostArguments {
    /// Do not build; fail if the build exceeds its budget or the README's two commands share fewer
    /// packages.
    #[arg(long)]
    check: bool,
    /// Number of packages to list, the most expensive first.
    #[arg(long, default_value_t = 40)]
    rows: usize,
}

#[derive(Args)]
struct PackageArguments {
    /// Only list the packages and check their files.
    #[arg(long)]
    list: bool,
}

fn make_packages(arguments: &PackageArguments) -> Result<()> {
    let packages = package::package(workspace())?;
    if !arguments.list {
        package::try_packages(workspace(), &packages)?;
    }
    Ok(terminal::print(package::table(&packages))?)
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
    terminal::print(format_args!("written to {}", output.display()))?;
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
        precisions: match &arguments.precision[..] {
            [] => bench::usual_precisions(arguments.device),
            given => given.to_vec(),
        },
        peers: arguments.peers.map(|python| Peers {
            python,
            only: arguments.only_peers,
        }),
        alternation: Alternation {
            slice: arguments.slice,
            cycles: arguments.cycles.get(),
            warm_up: WARM_UP_STEPS,
            seed: arguments.seed,
        },
        rounds: arguments.rounds.get(),
        steps: arguments.steps.get(),
        scripts: workspace().join("tests/oracle"),
    };
    let (report, outcome) = bench.run(&Terminal::default());
    if !report.is_empty() {
        terminal::print(report.table())?;
        if let Some(path) = arguments.json {
            report.write_json(&path)?;
        }
    }
    Ok(outcome?)
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
        precisions: match arguments.precision {
            None => bench::usual_precisions(device),
            Some(precision) => vec![precision],
        },
        peers: arguments.peers.map(|python| Peers {
            python,
            only: Vec::new(),
        }),
        alternation: Alternation {
            slice: Duration::from_secs(12),
            cycles: 8,
            warm_up: WARM_UP_STEPS,
            seed: 0,
        },
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

/// Returns the Cargo feature that a device needs and this program lacks.
fn missing_feature(device: DeviceChoice) -> Option<&'static str> {
    match device {
        DeviceChoice::Cuda(_) if !cfg!(feature = "cuda") => Some("cuda"),
        DeviceChoice::Metal if !cfg!(feature = "metal") => Some("metal"),
        _ => None,
    }
}

/// Runs the same command in a program built with a feature.
fn with_feature(feature: &str) -> Result<()> {
    let status = cargo()
        .args(["run", "--package", "xtask", "--features", feature, "--"])
        .args(std::env::args_os().skip(1))
        .status()
        .with_context(|| format!("building xtask with --features {feature}"))?;
    std::process::exit(status.code().unwrap_or(1))
}

/// Runs a workload in this process and prints the measurements.
fn bench_worker(workload: &Workload) -> Result<()> {
    // As the program does; with other settings, the benchmark would measure another program.
    perceiver_cli::process_env::apply();
    if workload.forever {
        workload.run_forever(&mut |amount| Ok(terminal::print(format_args!("step {amount}"))?))?;
    }
    Ok(terminal::print(workload.output()?)?)
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
        "{count} images written to {output}"
    ))?)
}

fn main() -> ExitCode {
    // Started by cargo as the compiler wrapper, to time it.
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

/// Prints an error.
fn failed(error: &anyhow::Error) -> ExitCode {
    let output = error.downcast_ref::<OutputError>();
    if output.is_some_and(OutputError::is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    terminal::error(perceiver_cli::in_one_line(error));
    match error.downcast_ref() {
        Some(XtaskError::Interrupted) => ExitCode::from(INTERRUPTED),
        _ => ExitCode::FAILURE,
    }
}

fn run(chore: Chore) -> Result<()> {
    match chore {
        Chore::Package(arguments) => make_packages(&arguments),
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
        // The Hub client takes longer to compile than all other tasks, so it is built only on
        // request.
        #[cfg(not(feature = "hub"))]
        (None, Source::Hub) => return with_feature("hub"),
    };
    let terminal = Terminal::default();
    let fetch = Fetch {
        spec: &spec,
        data_dir: &arguments.data_dir,
        http: HttpOptions::default(),
        progress: &terminal,
    };
    let there = match fetch.run(&origin)? {
        Outcome::AlreadyThere => "is already installed",
        Outcome::Installed => "is now installed",
    };
    Ok(terminal::print(format_args!(
        "{} {there}, verified: {}",
        spec.name,
        fetch.target().display()
    ))?)
}

#[cfg(feature = "hub")]
fn hub_origin(name: Name) -> Origin {
    use perceiver_data::{Cifar, HubDataset, HubProgress};
    use xtask::progress::Progress;

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

/// Returns the root of the workspace, from any working directory.
fn workspace() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}
