//! Training on data in which one class has most of the images.

use candle_core::Device;
use perceiver_data::{Dataset, Image, Samples};
use perceiver_ops::RngKey;
use perceiver_train::{
    EpochMetrics, Preset, Recipe, RunDirectory, TestResults, Trainer, TrainingData,
};

/// Images of one colour each in three classes, `counts` of each: grey, reddish and bluish. The
/// classes overlap: every channel varies by more than the tint.
fn three_tints(seed: u64, counts: [usize; 3]) -> Dataset {
    const SIDE: usize = 8;
    let key = RngKey::new(seed);
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for (class, count) in counts.into_iter().enumerate() {
        for _ in 0..count {
            let index = images.len() as u64;
            let tinted = [None, Some(0), Some(2)][class];
            let channel = |channel: u64| {
                let varied = key.fold_in(index).bits(channel) % 60;
                90 + varied as u8 + if tinted == Some(channel) { 30 } else { 0 }
            };
            let plane = |at: u64| vec![channel(at); SIDE * SIDE];
            images.push(Image::new(SIDE, SIDE, [0, 1, 2].map(plane).concat()).unwrap());
            labels.push(class as u32);
        }
    }
    let classes = ["grey", "reddish", "bluish"].map(String::from).to_vec();
    Dataset::new("three tints", images, labels, classes).unwrap()
}

/// 90% of the images are of the first class.
fn imbalanced() -> Dataset {
    three_tints(0, [270, 15, 15])
}

/// Trains on them, with changes of the quickstart's recipe, and returns the history and the results
/// on 120 test images, of each class as many.
fn trained(changes: &str) -> (Vec<EpochMetrics>, TestResults) {
    let fast = "
        [model]
        image_size = 8
        stem_units = []
        patch_size = 4
        num_iterations = 1
        num_transformer_blocks = 1
        latent_dim = 8
        [data]
        validation_fraction = 0.2
        [training]
        epochs = 16
        batch_size = 20
        learning_rate = 0.003
    ";
    let layers = [
        ("quickstart", Preset::Quickstart.toml()),
        ("fast", fast),
        ("changes", changes),
    ];
    let recipe = Recipe::from_layers(&layers).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let run = RunDirectory::unused(directory.path().join("run")).unwrap();
    let data = TrainingData::new(imbalanced(), &recipe).unwrap();
    assert_eq!(data.train.class_counts(), [216, 12, 12]);
    let mut trainer = Trainer::start(recipe, data, run, Device::Cpu).unwrap();
    trainer.fit(&mut ()).unwrap();
    let test: Samples = three_tints(1, [40; 3]).into();
    let results = trainer.test(&test, &mut ()).unwrap();
    (trainer.history().to_vec(), results)
}

#[test]
fn balanced_weights_raise_balanced_accuracy() {
    let mean = |weights: &str| {
        let of_seed = |seed: u64| {
            let changes = format!("[training]\nclass_weights = '{weights}'\nseed = {seed}");
            let (_, results) = trained(&changes);
            // Every class has as many test images, so the two are the same.
            let balanced = results.balanced_acc.unwrap();
            assert!((balanced - results.acc).abs() < 1e-12);
            balanced
        };
        (0..3).map(of_seed).sum::<f64>() / 3.0
    };
    let [plain, balanced] = ["none", "balanced"].map(mean);
    println!("balanced accuracy {plain} without weights, {balanced} with");
    assert!(
        balanced > plain + 0.1,
        "balanced accuracy {plain} without weights, {balanced} with"
    );
}

#[test]
fn class_weights_do_not_depend_on_micro_batches() {
    let changes = |micro_batches: usize| {
        format!(
            "[training]\nclass_weights = 'balanced'\nepochs = 2\nlabel_smoothing = 0.1\n\
             gradient_accumulation = {micro_batches}\n\
             [data.augmentation]\nmixing = {{ probability = 0.5, cutmix = 1.0 }}"
        )
    };
    let [whole, parts] = [1, 3].map(|micro_batches| trained(&changes(micro_batches)).0);
    assert_eq!(whole.len(), 2);
    for (whole, parts) in whole.iter().zip(&parts) {
        for (a, b) in [(whole.loss, parts.loss), (whole.val_loss, parts.val_loss)] {
            assert!((a / b - 1.0).abs() < 1e-4, "{a}, not {b}");
        }
    }
    let unweighted = changes(1).replace("balanced", "none");
    let unweighted = trained(&unweighted).0;
    let off = (whole[0].loss / unweighted[0].loss - 1.0).abs();
    assert!(off > 0.01, "the training loss shows no weights");
}

#[test]
fn a_loss_of_the_programs_own_takes_no_class_weights() {
    let recipe = |weights: &str| {
        let changes = format!("[training]\nepochs = 1\nclass_weights = '{weights}'");
        let layers = [
            ("quickstart", Preset::Quickstart.toml()),
            ("changes", &changes),
        ];
        Recipe::from_layers(&layers).unwrap()
    };
    let fit = |weights: &str| {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDirectory::unused(directory.path().join("run")).unwrap();
        let recipe = recipe(weights);
        let data = TrainingData::new(three_tints(0, [8, 6, 4]), &recipe).unwrap();
        let trainer = Trainer::start(recipe, data, run, Device::Cpu).unwrap();
        let mut trainer = trainer.with_loss("squares", |logits, targets| {
            let probabilities = perceiver_ops::softmax(logits)?;
            (probabilities - targets)?.sqr()?.sum(1)?.mean_all()
        });
        trainer.fit(&mut ())
    };
    fit("none").unwrap();
    let error = fit("balanced").unwrap_err().to_string();
    let expected = "training.class_weights: expected \"none\" with a loss of the program's own";
    assert!(error.contains(expected), "{error}");
}
