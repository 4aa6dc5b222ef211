//! Presets: the recipes that are built into the program.

use std::fmt;
use std::str::FromStr;

use crate::error::TrainError;

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

    const fn text(self) -> &'static str {
        match self {
            Self::Keras => include_str!("../../presets/keras.toml"),
            Self::Keras2021 => include_str!("../../presets/keras-2021.toml"),
            Self::Cifar100Cpu => include_str!("../../presets/cifar100-cpu.toml"),
            Self::Cifar100 => include_str!("../../presets/cifar100.toml"),
            Self::Cifar100Best => include_str!("../../presets/cifar100-best.toml"),
            Self::Quickstart => include_str!("../../presets/quickstart.toml"),
        }
    }

    /// Returns the values, as a layer of a [`Recipe`](crate::Recipe).
    ///
    /// # Panics
    /// Never: the tests parse every preset.
    pub fn table(self) -> toml::Table {
        toml::from_str(self.text()).expect("presets are valid TOML")
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
        let found = Self::ALL.into_iter().find(|preset| preset.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            TrainError::Recipe {
                name: text.to_string(),
                finding: format!("expected one of the presets {names}"),
            }
        })
    }
}
