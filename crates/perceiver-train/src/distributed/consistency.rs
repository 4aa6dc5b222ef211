//! Checks that all ranks were started with the same flags, data and program.

use toml::Table;

use crate::distributed::Communicator;
use crate::error::{Result, TrainError};
use crate::recipe::diff::Difference;

/// Checks that all ranks have the same `facts`; all have to call this.
///
/// # Errors
/// On all ranks, [`TrainError::OtherRank`] with the first rank that differs from rank 0 and the
/// first field that differs.
pub fn require_agreement(ranks: &dyn Communicator, facts: &Table) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let mut of_first = facts.to_string().into_bytes();
    ranks.broadcast(0, &mut of_first)?;
    let text = String::from_utf8_lossy(&of_first);
    let difference = match text.parse::<Table>() {
        Ok(expected) => Difference::first(&expected, facts),
        Err(_) => Some(Difference {
            field: "values to compare".to_string(),
            expected: "TOML".to_string(),
            found: "invalid TOML".to_string(),
        }),
    };
    for rank in 1..ranks.size() {
        let mut told = Vec::new();
        if let Some(difference) = difference.iter().find(|_| rank == ranks.rank()) {
            let Difference {
                field,
                expected,
                found,
            } = difference;
            told = [&ranks.host(), field, expected, found]
                .map(String::as_str)
                .join("\0")
                .into_bytes();
        }
        ranks.broadcast(rank, &mut told)?;
        let told = String::from_utf8_lossy(&told);
        if let [host, field, expected, found] = told.split('\0').collect::<Vec<_>>()[..] {
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
    fn all_learn_who_differs_in_what() {
        for differs in [None, Some(1), Some(2)] {
            let threads = ranks_of_threads(3).into_iter().map(|ranks| {
                thread::spawn(move || {
                    let seed = i64::from(Some(ranks.rank()) == differs);
                    let facts = format!("version = '1'\ntraining.seed = {seed}");
                    require_agreement(&ranks, &facts.parse().unwrap())
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
