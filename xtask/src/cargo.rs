//! Cargo, as this program was started by it.

use std::process::Command;

/// The command, to be given arguments. What `cargo xtask` is told about this crate is left out: build scripts that look at it would run again.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let is_of_crate = |prefix: &&str| name.to_string_lossy().starts_with(*prefix);
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(is_of_crate) {
            command.env_remove(name);
        }
    }
    command
}
