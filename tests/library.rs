//! Training from Rust: data, callbacks, optimizer, loss and schedule of a program's own.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Device, Tensor};
use candle_nn::{Init, VarBuilder};
use perceiver_data::{BoxError, Dataset, Image, MapDataset, Samples};
use perceiver_model::{Architecture, Classifier, ModelConfig, ModelError, Parameters};
use perceiver_ops::Mode;
use perceiver_report::write_report;
use perceiver_tests::program::tiny_recipe as recipe;
use perceiver_train::{
    Callback, CallbackResult, Callbacks, Checkpoint, CheckpointConfig, Control, EpochMetrics,
    Event, EventFile, Gradients, MetricsCsv, MetricsFile, Optimizer, OptimizerState, Outcome,
    Recipe, Result, RunDirectory, TestResults, TestTimeAugmentation, TrainError, Trainer,
    TrainingData, Validated, evaluate,
};

fn image(index: usize) -> Image {
    let plane = |channel: usize| vec![(90 * (index % 2) + 3 * index + 20 * channel) as u8; 64];
    Image::new(8, 8, [0, 1, 2].map(plane).concat()).unwrap()
}

fn classes() -> Vec<String> {
    ["dark", "light"].map(String::from).to_vec()
}

/// Returns `count` images of two classes in memory.
fn blobs(count: usize) -> Dataset {
    let labels = (0..count).map(|index| (index % 2) as u32).collect();
    Dataset::new("blobs", (0..count).map(image).collect(), labels, classes()).unwrap()
}

/// Starts a run in `directory`.
fn start(directory: &Path, recipe: &Recipe) -> Trainer {
    let data = TrainingData::new(blobs(40), recipe).unwrap();
    let run = RunDirectory::create(directory.join("run")).unwrap();
    Trainer::start(recipe.clone(), data, run, Device::Cpu).unwrap()
}

/// Resumes the run in `directory`.
fn resume(directory: &Path) -> Trainer {
    let run = RunDirectory::open(directory.join("run")).unwrap();
    let recipe = Recipe::read(run.recipe()).unwrap();
    let data = TrainingData::new(blobs(40), &recipe).unwrap();
    Trainer::resume(recipe, data, run, Device::Cpu).unwrap()
}

/// Returns the bytes of the run's weights.
fn weights(directory: &Path) -> Vec<u8> {
    fs::read(directory.join("run/model.safetensors")).unwrap()
}

/// Interrupts a run after `steps` steps, and counts events.
struct Interrupt<'a> {
    steps: usize,
    flag: &'a AtomicBool,
}

impl Callback for Interrupt<'_> {
    fn on_event(&mut self, event: &Event<'_>) -> CallbackResult {
        if let Event::Step { .. } = event {
            self.steps = self.steps.saturating_sub(1);
            self.flag.store(self.steps == 0, Ordering::Relaxed);
        }
        Ok(Control::Continue)
    }
}

/// Records the epoch number, halved, as a metric.
struct Half;

impl Callback for Half {
    fn on_event(&mut self, _event: &Event<'_>) -> CallbackResult {
        Ok(Control::Continue)
    }

    fn epoch_metrics(&mut self, validated: &Validated<'_>) -> Result<Vec<(String, f64)>, BoxError> {
        assert_eq!(validated.validation.len(), 4);
        Ok(vec![(
            "half, an epoch".to_string(),
            validated.epoch as f64 / 2.0,
        )])
    }
}

#[test]
fn custom_metrics_reach_all_files_of_a_run_and_its_report() {
    let directory = tempfile::tempdir().unwrap();
    let recipe = recipe("training.epochs = 2");
    let mut trainer = start(directory.path(), &recipe);
    let run = trainer.run().clone();
    let mut callbacks: Callbacks = vec![
        Box::new(Half),
        Box::new(MetricsFile::new(run.metrics())),
        Box::new(MetricsCsv::new(run.metrics_csv())),
        Box::new(EventFile::new(run.event_file())),
    ];
    trainer.fit(&mut callbacks).unwrap();

    let epochs = MetricsFile::read(run.metrics()).unwrap();
    assert_eq!(epochs, trainer.history());
    assert_eq!(epochs[1].custom.get("half, an epoch"), Some(&1.0));
    let table = fs::read_to_string(run.metrics_csv()).unwrap();
    let rows: Vec<&str> = table.lines().collect();
    assert!(
        rows[0].ends_with(",images_per_second,\"half, an epoch\""),
        "{table}"
    );
    assert!(
        rows[1].ends_with(",0.5") && rows[2].ends_with(",1.0"),
        "{table}"
    );
    let events = fs::read(run.event_file()).unwrap();
    let tag = b"custom/half, an epoch";
    assert_eq!(events.windows(tag.len()).filter(|at| at == tag).count(), 2);

    let test: Samples = blobs(10).into();
    trainer.test(&test, &mut ()).unwrap();
    let report = write_report(&run, &test).unwrap();
    let page = fs::read_to_string(report).unwrap();
    assert!(page.contains("half, an epoch"));
}

#[test]
fn metrics_that_are_not_finite_or_not_unique_are_errors() {
    struct Returns(Vec<(String, f64)>);
    impl Callback for Returns {
        fn on_event(&mut self, _event: &Event<'_>) -> CallbackResult {
            Ok(Control::Continue)
        }
        fn epoch_metrics(
            &mut self,
            _validated: &Validated<'_>,
        ) -> Result<Vec<(String, f64)>, BoxError> {
            Ok(self.0.clone())
        }
    }
    let metric = |value| ("a".to_string(), value);
    for (metrics, finding) in [
        (
            vec![metric(f64::NAN)],
            "metric \"a\": expected one finite number, found NaN",
        ),
        (vec![metric(1.0), metric(2.0)], "found the name twice"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut trainer = start(directory.path(), &recipe(""));
        let error = trainer.fit(&mut Returns(metrics)).unwrap_err();
        assert!(error.to_string().contains(finding), "{error}");
    }
}

#[test]
fn a_callback_can_end_training_and_the_run_can_be_extended() {
    let directory = tempfile::tempdir().unwrap();
    let mut trainer = start(directory.path(), &recipe("training.epochs = 5"));
    let mut finished = false;
    let outcome = trainer.fit(&mut |event: &Event<'_>| {
        finished |= matches!(event, Event::Finished { history: [_] });
        Ok(Control::stop_if(matches!(
            event,
            Event::Step { step: 2, .. }
        )))
    });
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    assert!(finished && trainer.is_done());
    drop(trainer);

    let mut trainer = resume(directory.path());
    assert!(trainer.is_done());
    trainer.extend(3).unwrap();
    assert_eq!(trainer.fit(&mut ()).unwrap(), Outcome::Finished);
    assert_eq!(trainer.history().len(), 3);
}

#[test]
fn callbacks_keep_their_own_errors() {
    #[derive(Debug, thiserror::Error)]
    #[error("the disk is full of cats")]
    struct Mine;
    let fit = |error: fn() -> BoxError| {
        let directory = tempfile::tempdir().unwrap();
        let mut trainer = start(directory.path(), &recipe(""));
        trainer.fit(&mut |_: &Event<'_>| Err(error())).unwrap_err()
    };
    let error = fit(|| Mine.into());
    assert_eq!(error.to_string(), "callback: the disk is full of cats");
    assert!(matches!(error, TrainError::Callback(source) if source.is::<Mine>()));
    let error = fit(|| TrainError::TooFewEpochs { done: 1, found: 0 }.into());
    assert!(matches!(error, TrainError::TooFewEpochs { .. }), "{error}");
}

/// Gradient descent with momentum, written for this test.
#[derive(Default)]
struct Momentum {
    learning_rate: f32,
    state: OptimizerState,
}

impl Optimizer for Momentum {
    fn step(&mut self, parameters: &Parameters, gradients: &Gradients) -> Result<()> {
        self.state.steps += 1;
        for (name, parameter) in parameters.iter() {
            let gradient = gradients.of_parameter(name)?;
            let velocity = match self.state.tensors.get(name) {
                Some(before) => ((before * 0.9)? + gradient)?,
                None => gradient.clone(),
            };
            let step = (&velocity * f64::from(self.learning_rate))?;
            parameter.set(&(parameter.as_tensor() - step)?)?;
            self.state.tensors.insert(name.to_owned(), velocity);
        }
        Ok(())
    }

    fn set_learning_rate(&mut self, learning_rate: f32) {
        self.learning_rate = learning_rate;
    }

    fn state(&self) -> Result<OptimizerState> {
        Ok(self.state.clone())
    }

    fn restore(&mut self, state: OptimizerState) {
        self.state = state;
    }
}

#[test]
fn runs_with_a_custom_optimizer_resume_with_the_same_bits() {
    let recipe = recipe("training.epochs = 2\ntraining.batch_size = 8");
    let whole = tempfile::tempdir().unwrap();
    let trainer = start(whole.path(), &recipe);
    let mut trainer = trainer.with_optimizer("momentum", Momentum::default());
    trainer.fit(&mut ()).unwrap();
    drop(trainer);

    let interrupted = tempfile::tempdir().unwrap();
    let mut trainer = start(interrupted.path(), &recipe);
    loop {
        trainer = trainer.with_optimizer("momentum", Momentum::default());
        let flag = &AtomicBool::new(false);
        let outcome = trainer.fit_until(&mut Interrupt { steps: 2, flag }, flag);
        drop(trainer);
        if outcome.unwrap() == Outcome::Finished {
            break;
        }
        trainer = resume(interrupted.path());
    }
    assert!(weights(whole.path()) == weights(interrupted.path()));
}

#[test]
fn resuming_without_the_custom_parts_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let recipe = recipe("training.epochs = 2\ntraining.batch_size = 8");
    let mut trainer = start(directory.path(), &recipe)
        .with_optimizer("momentum", Momentum::default())
        .with_schedule("half", |_| 0.5);
    let flag = &AtomicBool::new(false);
    trainer
        .fit_until(&mut Interrupt { steps: 1, flag }, flag)
        .unwrap();
    drop(trainer);
    let state = fs::read(directory.path().join("run/training/state.safetensors")).unwrap();
    let error = resume(directory.path())
        .fit(&mut ())
        .unwrap_err()
        .to_string();
    let expected = "expected optimizer \"momentum\", schedule \"half\", with which this run was trained, found none";
    assert!(error.contains(expected), "{error}");
    let after = fs::read(directory.path().join("run/training/state.safetensors")).unwrap();
    assert!(state == after, "the state has changed");
}

/// Returns the epochs of a run, without the figures of its speed.
fn epochs(trainer: &Trainer) -> Vec<EpochMetrics> {
    let epochs = trainer.history().iter().cloned();
    epochs
        .map(|epoch| EpochMetrics {
            seconds: 0.0,
            images_per_second: 0.0,
            ..epoch
        })
        .collect()
}

#[test]
fn a_custom_loss_trains_like_the_same_built_in_loss() {
    let recipe = recipe("training.label_smoothing = 0.1\ntraining.epochs = 2");
    let [own, built_in] = [true, false].map(|own| {
        let directory = tempfile::tempdir().unwrap();
        let mut trainer = start(directory.path(), &recipe);
        if own {
            trainer = trainer.with_loss("cross-entropy", |logits: &Tensor, targets: &Tensor| {
                let log_probabilities = candle_nn::ops::log_softmax(logits, 1)?;
                (log_probabilities * targets)?.sum(1)?.mean_all()?.neg()
            });
        }
        trainer.fit(&mut ()).unwrap();
        epochs(&trainer)
    });
    for (own, built_in) in own.iter().zip(&built_in) {
        assert!(
            (own.loss - built_in.loss).abs() < 1e-5,
            "{own:?} {built_in:?}"
        );
        assert!(
            (own.val_loss - built_in.val_loss).abs() < 1e-4,
            "{own:?} {built_in:?}"
        );
    }
}

#[test]
fn a_custom_schedule_sets_the_learning_rate() {
    let directory = tempfile::tempdir().unwrap();
    let recipe = recipe("training.epochs = 3\ntraining.learning_rate = 0.5");
    let trainer = start(directory.path(), &recipe);
    let mut trainer = trainer.with_schedule("halved every epoch", |position| {
        0.5_f64.powi((position.step / position.steps_per_epoch) as i32)
    });
    trainer.fit(&mut ()).unwrap();
    let rates: Vec<f32> = trainer
        .history()
        .iter()
        .map(|epoch| epoch.learning_rate)
        .collect();
    assert_eq!(rates, [0.5, 0.25, 0.125]);
}

/// A classifier without parameters: the brighter the image, the more probable the second class.
#[derive(Debug)]
struct Brightness;

impl Classifier for Brightness {
    fn forward(&self, images: &Tensor, _mode: Mode) -> Result<Tensor, ModelError> {
        let light = images.mean((1, 2, 3))?; // [batch]
        Ok(Tensor::stack(&[&light.neg()?, &light], 1)?)
    }

    fn num_classes(&self) -> usize {
        2
    }
}

#[test]
fn models_of_a_program_are_evaluated() {
    let data = TrainingData::new(blobs(40), &recipe("")).unwrap();
    let evaluation = evaluate(
        &Brightness,
        TestTimeAugmentation::HorizontalFlip,
        &blobs(20).into(),
        &data.preprocessing,
        &Device::Cpu.into(),
        &mut |_, _| (),
    );
    let evaluation = evaluation.unwrap();
    assert_eq!(evaluation.predictions.len(), 20);
    assert!(evaluation.sums.means().acc > 0.7);
}

/// The images of [`blobs`], read by index.
struct Mapped {
    classes: Vec<String>,
    labels: Vec<u32>,
}

impl Mapped {
    fn new(count: usize) -> Self {
        Self {
            classes: classes(),
            labels: blobs(count).labels().to_vec(),
        }
    }
}

impl MapDataset for Mapped {
    fn name(&self) -> &'static str {
        "blobs"
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn image(&self, index: usize) -> Result<Image, BoxError> {
        Ok(image(index))
    }

    fn fingerprint(&self) -> String {
        format!("{} blobs", self.labels.len())
    }
}

#[test]
fn images_read_by_index_train_like_those_in_memory() {
    let recipe = recipe("training.epochs = 2\ndata.augmentation.zoom = 0.3");
    let directory = tempfile::tempdir().unwrap();
    let mut in_memory = start(directory.path(), &recipe);
    in_memory.fit(&mut ()).unwrap();

    let directory = tempfile::tempdir().unwrap();
    let data = || TrainingData::new(Samples::map(Mapped::new(40)).unwrap(), &recipe).unwrap();
    let root = directory.path().join("run");
    let run = RunDirectory::create(&root).unwrap();
    let mut trainer = Trainer::start(recipe.clone(), data(), run, Device::Cpu).unwrap();
    let flag = &AtomicBool::new(false);
    trainer
        .fit_until(&mut Interrupt { steps: 1, flag }, flag)
        .unwrap();
    drop(trainer);
    let run = RunDirectory::open(&root).unwrap();
    let recipe = Recipe::read(run.recipe()).unwrap();
    let mut trainer = Trainer::resume(recipe, data(), run, Device::Cpu).unwrap();
    trainer.fit(&mut ()).unwrap();
    assert_eq!(epochs(&trainer), epochs(&in_memory));

    let [mapped, held] = [
        trainer.test(&Samples::map(Mapped::new(10)).unwrap(), &mut ()),
        in_memory.test(&blobs(10).into(), &mut ()),
    ]
    .map(|results| results.unwrap().loss);
    assert_eq!(mapped.to_bits(), held.to_bits());
}

#[test]
fn every_class_of_sorted_data_is_validated() {
    let mut sorted = blobs(40);
    let order = (0..40).map(|at| if at < 20 { 2 * at } else { 2 * at - 39 });
    let images = order.clone().map(image).collect();
    let labels = order.map(|index| (index % 2) as u32).collect();
    sorted = Dataset::new("sorted", images, labels, sorted.classes().to_vec()).unwrap();
    let count = |split: &str| {
        let recipe = recipe(&format!("data.validation_split = '{split}'"));
        let data = TrainingData::new(sorted.clone(), &recipe).unwrap();
        data.validation.class_counts()
    };
    assert_eq!(count("auto"), [2, 2]);
    assert_eq!(count("stratified"), [2, 2]);
    assert_eq!(count("tail"), [0, 4]);
}

#[test]
fn validation_samples_can_be_given() {
    let recipe = recipe("");
    let data = TrainingData::with_validation(blobs(20), blobs(6), &recipe).unwrap();
    assert_eq!((data.train.len(), data.validation.len()), (20, 6));
    let other = blobs(6)
        .with_classes(&["dark", "light", "red"].map(String::from))
        .unwrap();
    let error = TrainingData::with_validation(blobs(20), other, &recipe).unwrap_err();
    let expected =
        "data set blobs: expected validation images of the classes [\"dark\", \"light\"]";
    assert!(error.to_string().starts_with(expected), "{error}");
}

#[test]
fn the_test_writes_its_files_and_reports_its_progress() {
    let directory = tempfile::tempdir().unwrap();
    let mut trainer = start(directory.path(), &recipe(""));
    trainer.fit(&mut ()).unwrap();
    let run = trainer.run().clone();
    let test: Samples = blobs(10).into();
    let mut seen = (0, None);
    let results = trainer.test(&test, &mut |event: &Event<'_>| {
        match event {
            Event::Test { done, total } => seen.0 = 100 * done / total,
            Event::Tested(results) => seen.1 = Some(results.images),
            _ => {}
        }
        Ok(Control::Continue)
    });
    let results = results.unwrap();
    assert_eq!(seen, (100, Some(10)));
    assert_eq!(TestResults::read(run.results()).unwrap(), results);
    let predictions = perceiver_train::read_predictions(run.predictions()).unwrap();
    assert_eq!(predictions.len(), 10);

    let error = write_report(&run, &blobs(8).into())
        .unwrap_err()
        .to_string();
    assert!(error.contains("results of these test images"), "{error}");
    assert!(!run.report().exists());
    let other = blobs(6)
        .with_classes(&["light", "dark"].map(String::from))
        .unwrap();
    let error = trainer
        .test(&other.into(), &mut ())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("expected test images of the classes [\"dark\", \"light\"]"),
        "{error}"
    );
}

/// A linear classifier of the mean of every channel, with its configuration.
#[derive(Clone, Debug, serde::Serialize)]
struct MeanColour {
    image_size: usize,
    classes: usize,
}

#[derive(Debug)]
struct MeanColourModel {
    weight: Tensor, // [classes, 3]
    bias: Tensor,   // [classes]
}

impl Architecture for MeanColour {
    type Model = MeanColourModel;

    fn name(&self) -> &'static str {
        "mean-colour"
    }

    fn image_size(&self) -> usize {
        self.image_size
    }

    fn num_classes(&self) -> usize {
        self.classes
    }

    fn with_num_classes(self, classes: usize) -> Self {
        Self { classes, ..self }
    }

    fn build(&self, vb: VarBuilder) -> Result<MeanColourModel, ModelError> {
        let normal = Init::Randn {
            mean: 0.0,
            stdev: 0.1,
        };
        let vb = vb.pp("head");
        Ok(MeanColourModel {
            weight: vb.get_with_hints((self.classes, 3), "weight", normal)?,
            bias: vb.get_with_hints(self.classes, "bias", Init::Const(0.0))?,
        })
    }
}

impl Classifier for MeanColourModel {
    fn forward(&self, images: &Tensor, _mode: Mode) -> Result<Tensor, ModelError> {
        let colours = images.mean((2, 3))?; // [batch, 3]
        Ok(colours
            .matmul(&self.weight.t()?)?
            .broadcast_add(&self.bias)?)
    }

    fn num_classes(&self) -> usize {
        2
    }
}

/// A model of the program's own is trained, resumed, tested and opened like the built-in ones.
#[test]
fn models_of_a_program_are_trained() {
    let directory = tempfile::tempdir().unwrap();
    let own = || {
        ModelConfig::custom(MeanColour {
            image_size: 8,
            classes: 2,
        })
    };
    let mut recipe = recipe("training.learning_rate = 0.1\ntraining.epochs = 6");
    recipe.model = own();
    let mut trainer = start(directory.path(), &recipe);
    let interrupt = AtomicBool::new(false);
    let mut callback = Interrupt {
        steps: 4,
        flag: &interrupt,
    };
    let outcome = trainer.fit_until(&mut callback, &interrupt).unwrap();
    assert_eq!(outcome, Outcome::Interrupted);
    drop(trainer);

    let run = RunDirectory::open(directory.path().join("run")).unwrap();
    let mut recipe = Recipe::read(run.recipe()).unwrap();
    let error = recipe.model.validate().unwrap_err();
    assert!(
        error.to_string().contains("found \"mean-colour\""),
        "{error}"
    );
    recipe.model = own();
    let data = TrainingData::new(blobs(40), &recipe).unwrap();
    let mut trainer = Trainer::resume(recipe, data, run, Device::Cpu).unwrap();
    trainer.fit(&mut ()).unwrap();
    let results = trainer.test(&blobs(20).into(), &mut ()).unwrap();
    assert!(results.acc > 0.8, "{}", results.acc);

    let root = directory.path().join("run");
    let error = Checkpoint::open(&root, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("mean-colour"), "{error}");
    let mut config = CheckpointConfig::read(root.join("config.json")).unwrap();
    config.model = own();
    let checkpoint = Checkpoint::open_with(config, &root, &Device::Cpu).unwrap();
    let scores = checkpoint.classify(&[image(0), image(39)]).unwrap();
    assert!(scores[0][0] > 0.5 && scores[1][1] > 0.5, "{scores:?}");
}
