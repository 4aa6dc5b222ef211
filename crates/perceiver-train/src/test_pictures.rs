//! The pictures that a model is judged by.

use perceiver_data::{LoadOptions, Pictures, ShardFolder, Source, Split};

use crate::error::Result;
use crate::ranks::Ranks;
use crate::survey::Surveys;

/// The test split of a data set, or its first `limit` pictures. The ranks share out what can be; all have to ask.
///
/// # Errors
/// Whatever is wrong with the data, or when a rank has gone.
pub fn test_pictures(
    source: &Source,
    options: &LoadOptions,
    limit: Option<usize>,
    ranks: &dyn Ranks,
) -> Result<Pictures> {
    let limit = limit.unwrap_or(usize::MAX);
    if let Source::Shards(root) = source {
        source.check(options)?;
        let mut test = ShardFolder::open(root)?.split(Split::Test, options.shorter_side)?;
        test.truncate(limit);
        let (test, _) = Surveys::default().surveyed(test, options, ranks)?;
        return Ok(test.into());
    }
    let mut test = source.load(Split::Test, options)?;
    test.truncate(limit);
    Ok(test.into())
}
