//! CIFAR from the Hub, written in the official binary layout, which then passes the same checks as
//! the archive.

use std::path::Path;

use perceiver_data::{Cifar, CifarRecord, DataError, Dataset, HubDataset, Split};

use crate::error::{Result, XtaskError};
use crate::progress::Progress;
use crate::spec::DatasetSpec;

/// Returns the repository of a CIFAR data set on the Hub.
pub fn hub_repo(cifar: Cifar) -> &'static str {
    match cifar {
        Cifar::Ten => "uoft-cs/cifar10",
        Cifar::Hundred => "uoft-cs/cifar100",
    }
}

/// Writes `dataset` under `parent` in the layout of `spec`.
pub(crate) fn write_from_hub(
    dataset: &HubDataset,
    spec: &DatasetSpec,
    parent: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let known = [Cifar::Ten, Cifar::Hundred];
    let Some(cifar) = known
        .into_iter()
        .find(|cifar| cifar.directory() == spec.directory)
    else {
        return Err(XtaskError::NoSource {
            found: dataset.repo.clone(),
            directory: spec.directory.clone(),
        });
    };
    for split in [Split::Train, Split::Test] {
        progress.message(&format!(
            "reading the {} split",
            format!("{split:?}").to_lowercase()
        ));
        let data = dataset.load(split, usize::MAX)?;
        cifar.write(parent, split, &records(&data, cifar)?)?;
        let groups = data.groups().map(|groups| groups.names.as_slice());
        cifar.write_names(parent, data.classes(), groups.unwrap_or_default())?;
    }
    Ok(())
}

/// Converts the images and both labels to the records of the files.
fn records(data: &Dataset, cifar: Cifar) -> Result<Vec<CifarRecord>> {
    let groups = data.groups();
    if cifar == Cifar::Hundred && groups.is_none() {
        return Err(inconsistent(
            data,
            "fine and coarse labels",
            "one kind of label",
        ));
    }
    let byte = |label: u32| {
        let found = format!("label {label}");
        u8::try_from(label).map_err(|_| inconsistent(data, "labels below 256", &found))
    };
    let record = |(image, &label): (&perceiver_data::Image, &u32)| {
        let group = groups.and_then(|groups| groups.of_class.get(label as usize));
        Ok(CifarRecord {
            coarse: byte(group.copied().unwrap_or(0))?,
            fine: byte(label)?,
            image: image.clone(),
        })
    };
    data.images()
        .iter()
        .zip(data.labels())
        .map(record)
        .collect()
}

fn inconsistent(data: &Dataset, expected: &str, found: &str) -> XtaskError {
    XtaskError::Data(DataError::Inconsistent {
        name: data.name().to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
    })
}
