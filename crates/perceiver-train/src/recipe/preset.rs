//! Presets: the recipes that are built into the program.

use std::fmt;
use std::str::FromStr;

use crate::error::TrainError;
use crate::recipe::Recipe;

/// A built-in recipe; its values are in `presets/<name>.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// The exact listing of the Keras example.
    Keras,
    /// The example as of 2021, with LAMB.
    Keras2021,
    /// A small model for CIFAR-100 on two cores.
    Cifar100Cpu,
    /// `Cifar100Cpu` for hours instead of half an hour.
    Cifar100CpuLong,
    /// The former `Cifar100Cpu`, of November 2026, for comparison.
    Cifar100Cpu202611,
    /// `Cifar100Cpu` for CIFAR-10.
    Cifar10Cpu,
    /// The example's architecture, with training options that make it learn, on one GPU.
    Cifar100,
    /// A Perceiver of fewer than 20 M parameters for the highest accuracy on CIFAR-100.
    Cifar100Best,
    /// The embedded shapes, in a few minutes.
    Quickstart,
    /// Fine-tuning of a checkpoint on few images.
    Finetune,
    /// Perceiver IO with a convolutional stem, from scratch.
    PerceiverIoConv,
    /// Perceiver IO of pixels with Fourier positions, from scratch.
    PerceiverIoFourier,
    /// Perceiver IO of pixels with learned positions, from scratch.
    PerceiverIoLearned,
}

impl Preset {
    /// All presets.
    pub const ALL: [Self; 13] = [
        Self::Keras,
        Self::Keras2021,
        Self::Cifar100Cpu,
        Self::Cifar100CpuLong,
        Self::Cifar100Cpu202611,
        Self::Cifar10Cpu,
        Self::Cifar100,
        Self::Cifar100Best,
        Self::Quickstart,
        Self::Finetune,
        Self::PerceiverIoConv,
        Self::PerceiverIoFourier,
        Self::PerceiverIoLearned,
    ];

    /// Returns the name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keras => "keras",
            Self::Keras2021 => "keras-2021",
            Self::Cifar100Cpu => "cifar100-cpu",
            Self::Cifar100CpuLong => "cifar100-cpu-long",
            Self::Cifar100Cpu202611 => "cifar100-cpu-2026-11",
            Self::Cifar10Cpu => "cifar10-cpu",
            Self::Cifar100 => "cifar100",
            Self::Cifar100Best => "cifar100-best",
            Self::Quickstart => "quickstart",
            Self::Finetune => "finetune",
            Self::PerceiverIoConv => "perceiver-io-conv",
            Self::PerceiverIoFourier => "perceiver-io-fourier",
            Self::PerceiverIoLearned => "perceiver-io-learned",
        }
    }

    /// Returns a one-line description.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Keras => "the Keras example's listing, exactly (which does not learn)",
            Self::Keras2021 => "the Keras example of 2021, with LAMB",
            Self::Cifar100Cpu => "a small model that learns CIFAR-100 on two cores",
            Self::Cifar100CpuLong => "cifar100-cpu for hours, with CutMix",
            Self::Cifar100Cpu202611 => "the former cifar100-cpu, for comparison",
            Self::Cifar10Cpu => "cifar100-cpu for CIFAR-10",
            Self::Cifar100 => {
                "the Keras example's architecture, trained so that it learns, on one GPU"
            }
            Self::Cifar100Best => {
                "the highest accuracy on CIFAR-100 below 20 M parameters, on one GPU"
            }
            Self::Quickstart => "the embedded shapes, in minutes",
            Self::Finetune => "fine-tuning of --init-from on few images, the head first",
            Self::PerceiverIoConv => {
                "Perceiver IO on ImageNet with a convolutional stem, from scratch, on several GPUs"
            }
            Self::PerceiverIoFourier => {
                "Perceiver IO on ImageNet's pixels with Fourier positions, from scratch, on several GPUs"
            }
            Self::PerceiverIoLearned => {
                "Perceiver IO on ImageNet's pixels with learned positions, from scratch, on several GPUs"
            }
        }
    }

    /// Returns the values as TOML, a layer for [`Recipe::from_layers`].
    pub const fn toml(self) -> &'static str {
        match self {
            Self::Keras => include_str!("../../presets/keras.toml"),
            Self::Keras2021 => include_str!("../../presets/keras-2021.toml"),
            Self::Cifar100Cpu => include_str!("../../presets/cifar100-cpu.toml"),
            Self::Cifar100CpuLong => include_str!("../../presets/cifar100-cpu-long.toml"),
            Self::Cifar100Cpu202611 => include_str!("../../presets/cifar100-cpu-2026-11.toml"),
            Self::Cifar10Cpu => include_str!("../../presets/cifar10-cpu.toml"),
            Self::Cifar100 => include_str!("../../presets/cifar100.toml"),
            Self::Cifar100Best => include_str!("../../presets/cifar100-best.toml"),
            Self::Quickstart => include_str!("../../presets/quickstart.toml"),
            Self::Finetune => include_str!("../../presets/finetune.toml"),
            Self::PerceiverIoConv => include_str!("../../presets/perceiver-io-conv.toml"),
            Self::PerceiverIoFourier => include_str!("../../presets/perceiver-io-fourier.toml"),
            Self::PerceiverIoLearned => include_str!("../../presets/perceiver-io-learned.toml"),
        }
    }

    /// Returns the recipe, whose fields can be set.
    ///
    /// ```
    /// use perceiver_train::Preset;
    ///
    /// let mut recipe = Preset::Quickstart.recipe();
    /// recipe.training.epochs = 3;
    /// recipe.data.augmentation.zoom = 0.0;
    /// ```
    ///
    /// # Panics
    /// Never: the tests parse every preset.
    pub fn recipe(self) -> Recipe {
        let layers = [(self.name(), self.toml())];
        Recipe::from_layers(&layers).expect("presets are valid recipes")
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Preset {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self, TrainError> {
        let preset = Self::ALL.into_iter().find(|preset| preset.name() == text);
        preset.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            TrainError::Recipe {
                name: text.to_string(),
                finding: format!("expected one of the presets {names}"),
            }
        })
    }
}
