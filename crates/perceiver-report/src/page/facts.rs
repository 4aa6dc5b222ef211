//! The facts of a run: data, seed, time, machine.

use perceiver_train::Environment;

use crate::run::Run;
use crate::text::{grouped, time};

/// Returns the facts by name.
pub(crate) fn facts(run: &Run) -> Vec<(&'static str, String)> {
    let training = &run.recipe.training;
    let mut facts = Vec::new();
    let environment = run.environment.as_ref();
    if let Some(started) = environment.and_then(|here| here.started.as_ref()) {
        facts.push(("Started", started.replace('T', " ").replace('Z', " UTC")));
    }
    facts.extend([
        ("Data set", run.recipe.data.dataset.to_string()),
        ("Seed", training.seed.to_string()),
        ("Epochs", run.epochs.len().to_string()),
        ("Training time", time(run.seconds())),
    ]);
    if let Some(last) = run.epochs.last() {
        let rate = grouped(last.images_per_second.round() as usize);
        facts.push(("Speed", format!("{rate} images/s")));
    }
    let peaks = run.steps.iter().filter_map(|step| step.peak_memory_bytes);
    if let Some(peak) = peaks.max() {
        facts.push((
            "Peak memory",
            format!("{} MB", grouped((peak / 1_000_000) as usize)),
        ));
    }
    if let Some(budget) = training.budget {
        facts.push(("Budget", budget.to_string()));
    }
    match environment {
        Some(here) => facts.extend(machine(here)),
        None => facts.push(("Machine", "not recorded".to_string())),
    }
    let sha256 = &run.config.data.train_sha256;
    if !sha256.is_empty() {
        facts.push(("Training data, sha256", sha256.clone()));
    }
    if let Some(results) = run.results.as_ref().filter(|r| !r.sha256.is_empty()) {
        facts.push(("Test data, sha256", results.sha256.clone()));
    }
    facts
}

fn machine(here: &Environment) -> Vec<(&'static str, String)> {
    let of = |name: &String| format!("{} cores of {name}", here.cores);
    let processor = here.processor.as_ref().map(of);
    let mut facts = vec![
        ("Program", format!("perceiver {}", here.version)),
        (
            "System",
            format!("{} on {}", here.system, here.architecture),
        ),
        (
            "Processor",
            processor.unwrap_or_else(|| format!("{} cores", here.cores)),
        ),
        ("Device", here.device.clone()),
    ];
    if let Some(commit) = &here.commit {
        facts.push(("Git commit", commit.clone()));
    }
    facts
}
