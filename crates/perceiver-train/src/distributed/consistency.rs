//! Checks that all ranks were started with the same flags, data and program.

use std::collections::BTreeMap;

use crate::distributed::Communicator;
use crate::error::{Result, TrainError};

/// Values by name that all ranks must agree on.
pub type Facts = BTreeMap<String, String>;

/// Checks that all ranks have the same `facts`; all have to call this.
///
/// # Errors
/// On all ranks, [`TrainError::OtherRank`] with the first rank that differs from rank 0 and the
/// first value that differs.
pub fn require_agreement(ranks: &dyn Communicator, facts: &Facts) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let mut of_first = serde_json::to_vec(facts).unwrap_or_default();
    ranks.broadcast(0, &mut of_first)?;
    let of_first: Facts = serde_json::from_slice(&of_first).unwrap_or_default();
    let names = of_first.keys().chain(facts.keys());
    let differs = names
        .filter(|name| of_first.get(*name) != facts.get(*name))
        .min();
    let value = |facts: &Facts, name| {
        let value = facts.get(name).map(String::as_str);
        value.unwrap_or("unset").to_string()
    };
    let difference = differs.map(|name| {
        let (expected, actual) = (value(&of_first, name), value(facts, name));
        [ranks.host(), name.clone(), expected, actual].join("\0")
    });
    for rank in 1..ranks.size() {
        let own = difference.as_ref().filter(|_| rank == ranks.rank());
        let mut message = own.cloned().unwrap_or_default().into_bytes();
        ranks.broadcast(rank, &mut message)?;
        let message = String::from_utf8_lossy(&message);
        if let [host, field, expected, found] = message.split('\0').collect::<Vec<_>>()[..] {
            let [host, field, expected, found] = [host, field, expected, found].map(str::to_string);
            return Err(TrainError::OtherRank {
                rank,
                host,
                field,
                expected,
                found,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::distributed::threads::ranks_of_threads;

    #[test]
    fn disagreements_name_the_rank_and_the_field() {
        for differs in [None, Some(1), Some(2)] {
            let threads = ranks_of_threads(3).into_iter().map(|ranks| {
                thread::spawn(move || {
                    let seed = i64::from(Some(ranks.rank()) == differs);
                    let facts = [
                        ("version", "1".to_string()),
                        ("training.seed", seed.to_string()),
                    ];
                    let facts = facts.map(|(name, value)| (name.to_string(), value));
                    require_agreement(&ranks, &facts.into_iter().collect())
                })
            });
            for thread in threads.collect::<Vec<_>>() {
                let agreed = thread.join().unwrap();
                let Some(rank) = differs else {
                    agreed.unwrap();
                    continue;
                };
                let error = agreed.unwrap_err().to_string();
                let expected =
                    format!("rank {rank} on this machine has training.seed = 1, but rank 0 has 0");
                assert_eq!(error, expected);
            }
        }
    }
}
