//! Cargo, as it started this program.

use std::process::Command;

/// Returns the cargo command, without arguments. It drops the variables that `cargo xtask` sets for
/// this crate, which would make build scripts run again.
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
