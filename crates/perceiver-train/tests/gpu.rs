//! Training on a GPU matches training on the CPU: the same losses, for every option of a recipe.

use candle_core::Device;
use perceiver_ops::open_cuda;
use perceiver_train::{Preset, Recipe, RunDirectory, Trainer, TrainingData};

/// Two epochs of a tiny model on the embedded shapes.
const TINY: &str = "
data.limit_train = 40
data.limit_test = 10
training = { epochs = 2, batch_size = 16 }

[model]
image_size = 16
patch_size = 4
latent_dim = 4
projection_dim = 8
num_heads = 2
head_dim = 4
num_transformer_blocks = 1
ffn_units = [16, 8]
classifier_units = [20]
dropout_rate = 0.2
attention_dropout = 0.1
";

/// Returns the training and validation losses of every epoch.
fn losses(changes: &str, device: &Device) -> Vec<f64> {
    let layers = [
        ("quickstart", Preset::Quickstart.toml()),
        ("tiny", TINY),
        ("changes", changes),
    ];
    let recipe = Recipe::from_layers(&layers).unwrap();
    let data = TrainingData::load(&recipe).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let run = RunDirectory::unused(directory.path().join("run")).unwrap();
    let mut trainer = Trainer::start(recipe, data, run, device.clone()).unwrap();
    trainer.fit(&mut ()).unwrap();
    let history = trainer.history().iter();
    history
        .flat_map(|epoch| [epoch.loss, epoch.val_loss])
        .collect()
}

fn assert_same(changes: &str, share: f64) {
    let actual = losses(changes, &open_cuda(0).expect("a GPU"));
    let expected = losses(changes, &Device::Cpu);
    assert_eq!(actual.len(), 4);
    for (actual_loss, loss) in actual.iter().zip(&expected) {
        assert!(
            (actual_loss / loss - 1.0).abs() < share,
            "{actual:?} for {expected:?}"
        );
    }
}

#[test]
fn keras_example_layers() {
    assert_same("", 1e-4);
}

#[test]
fn keras_example_layers_in_bf16() {
    assert_same("training.precision = 'bf16'", 0.02);
}

#[test]
fn all_other_options() {
    let changes = "
        data.augmentation = { erasing = { probability = 0.5 }, mixing = { mixup = 0.8, cutmix = 1.0 } }
        [model]
        stem_units = [6]
        patch_size = 1
        positions = 'fourier'
        fourier_bands = 2
        num_cross_heads = 2
        head_dim = 16
        sharing = 'none'
        norm_pooled = true
        [training]
        gradient_accumulation = 2
        clip_norm = 0.5
        label_smoothing = 0.1
        class_weights = 'balanced'
        ema_decay = 0.9
        schedule = { name = 'cosine', warmup_epochs = 0.2 }
        optimizer = { name = 'adamw', weight_decay = 0.05 }";
    assert_same(changes, 1e-4);
    let changes = format!("{changes}\nactivation_checkpointing = true\nprecision = 'bf16'");
    let changes = changes.replace(
        "optimizer = { name = 'adamw'",
        "optimizer = { name = 'lamb'",
    );
    assert_same(&changes, 0.03);
}
