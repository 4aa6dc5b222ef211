//! Files of the Hugging Face Hub: downloads that are checked before they are used, uploads in one commit.
//!
//! ```no_run
//! use perceiver_hub::{HubAccess, RepoKind, RepoName, Repository, Upload};
//!
//! // Two files of a model, as they are at one moment; they lie in the cache that Python's huggingface_hub shares.
//! let name: RepoName = "someone/perceiver@main".parse()?;
//! let directory = name.fetch(RepoKind::Model, &HubAccess::from_env(), &["config.json", "model.safetensors"])?;
//! println!("{}", directory.join("config.json").display());
//!
//! // A directory's files, and one made just now, into a repository that is created if need be.
//! let repository = Repository::connect(RepoKind::Model, "me/perceiver", &HubAccess::from_env())?;
//! let files = [
//!     Upload::file("model.safetensors", "runs/mine/model.safetensors"),
//!     Upload::bytes("README.md", "# Mine"),
//! ];
//! repository.create(true)?;
//! let commit = repository.upload("main", "Perceiver of today", &files)?;
//! println!("{}", commit.address);
//! # Ok::<(), perceiver_hub::HubError>(())
//! ```
//!
//! All goes through the `hf-hub` library, so `HF_TOKEN` (or the token file of `hf auth login`), `HF_HOME`,
//! `HF_HUB_CACHE` and `HF_ENDPOINT` have their usual meaning. What this crate adds:
//!
//! - A file is used when it has the size and the checksum that the Hub states for it, and never otherwise: `hf-hub`
//!   keeps whatever a server answers to a download, an error page included. A wrong one is removed and asked for again.
//! - Several files come from one commit, also when somebody pushes in between.
//! - `HF_HUB_OFFLINE`, and the cache where no server can be reached.
//! - A refusal comes with what to do about it, and without tokens.

mod access;
mod cache;
mod check;
mod download;
mod error;
mod model;
mod name;
mod progress;
mod refusal;
mod repository;
mod retry;
mod token;
mod upload;

pub use access::HubAccess;
pub use check::{RemoteFile, remove_cached};
pub use error::{HubError, Result};
pub use model::ModelPlace;
pub use name::RepoName;
pub use progress::{HubProgress, OnProgress};
pub use repository::{RepoKind, Repository};
pub use token::{from_env as token_from_env, without_tokens};
pub use upload::{Commit, Upload};
