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
    /// The example's architecture, with training options that make it learn, on one GPU.
    Cifar100,
    /// A Perceiver of fewer than 20 M parameters for the highest accuracy on CIFAR-100.
    Cifar100Best,
    /// The embedded shapes, in a few minutes.
    Quickstart,
}

impl Preset {
    /// All presets.
    pub const ALL: [Self; 6] = [
        Self::Keras,
        Self::Keras2021,
        Self::Cifar100Cpu,
        Self::Cifar100,
        Self::Cifar100Best,
        Self::Quickstart,
    ];

    /// Returns the name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keras => "keras",
            Self::Keras2021 => "keras-2021",
            Self::Cifar100Cpu => "cifar100-cpu",
            Self::Cifar100 => "cifar100",
            Self::Cifar100Best => "cifar100-best",
            Self::Quickstart => "quickstart",
        }
    }

    /// Returns a one-line description.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Keras => "the Keras example's listing, exactly (which does not learn)",
            Self::Keras2021 => "the Keras example of 2021, with LAMB",
            Self::Cifar100Cpu => "a small model that learns CIFAR-100 on two cores",
            Self::Cifar100 => {
                "the Keras example's architecture, trained so that it learns, on one GPU"
            }
            Self::Cifar100Best => {
                "the highest accuracy on CIFAR-100 below 20 M parameters, on one GPU"
            }
            Self::Quickstart => "the embedded shapes, in minutes",
        }
    }

    /// Returns the values as TOML, a layer for [`Recipe::from_layers`].
    pub const fn toml(self) -> &'static str {
        match self {
            Self::Keras => include_str!("../../presets/keras.toml"),
            Self::Keras2021 => include_str!("../../presets/keras-2021.toml"),
            Self::Cifar100Cpu => include_str!("../../presets/cifar100-cpu.toml"),
            Self::Cifar100 => include_str!("../../presets/cifar100.toml"),
            Self::Cifar100Best => include_str!("../../presets/cifar100-best.toml"),
            Self::Quickstart => include_str!("../../presets/quickstart.toml"),
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
