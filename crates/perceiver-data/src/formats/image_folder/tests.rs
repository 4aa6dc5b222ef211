use std::collections::BTreeSet;
use std::fs;

use tempfile::TempDir;

use super::*;

/// Creates a tree of 1 x 1 images; the red value of each is its index in `files`.
fn tree(files: &[&str]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (index, file) in files.iter().enumerate() {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        Image::new(1, 1, vec![index as u8, 0, 0])
            .unwrap()
            .write_png(&path)
            .unwrap();
    }
    root
}

/// Creates class folders without splits, with `per_class` images each.
fn flat(classes: &[&str], per_class: usize) -> TempDir {
    let files: Vec<String> = classes
        .iter()
        .flat_map(|class| (0..per_class).map(move |n| format!("{class}/{n}.png")))
        .collect();
    tree(&files.iter().map(String::as_str).collect::<Vec<_>>())
}

fn load(root: &TempDir, split: Split) -> Result<Dataset> {
    ImageFolder::new(root.path()).load(split)
}

fn reds(dataset: &Dataset) -> Vec<u8> {
    dataset
        .images()
        .iter()
        .map(|image| image.pixels()[0])
        .collect()
}

#[test]
fn split_folders_define_the_splits() {
    let root = tree(&[
        "train/dog/a.png",
        "train/dog/b.PNG",
        "train/cat/deep/down/c.png",
        "test/cat/d.png",
        "test/dog/e.png",
    ]);
    ImageFolder::new(root.path()).check().unwrap();
    let train = load(&root, Split::Train).unwrap();
    assert_eq!(train.classes(), ["cat", "dog"]);
    let pairs: BTreeSet<_> = reds(&train)
        .into_iter()
        .zip(train.labels().to_vec())
        .collect();
    assert_eq!(pairs, BTreeSet::from([(0, 1), (1, 1), (2, 0)]));
    assert_eq!(reds(&load(&root, Split::Test).unwrap()).len(), 2);
    assert_eq!(train.name(), format!("folder:{}", root.path().display()));
}

#[test]
fn a_class_may_be_called_train() {
    let root = flat(&["bus", "train"], 2);
    assert_eq!(
        load(&root, Split::Train).unwrap().classes(),
        ["bus", "train"]
    );
}

#[test]
fn hidden_and_other_files_are_skipped() {
    let root = flat(&["cat", "dog"], 3);
    for file in [
        "cat/.hidden.png",
        "cat/notes.txt",
        "README.md",
        "dog/picture",
    ] {
        fs::write(root.path().join(file), "no picture").unwrap();
    }
    fs::create_dir_all(root.path().join(".cache/x")).unwrap();
    let train = load(&root, Split::Train).unwrap();
    assert_eq!(
        (train.len(), train.classes()),
        (4, &["cat".into(), "dog".into()][..])
    );
}

#[test]
fn the_random_split_is_stratified_and_covers_every_image_once() {
    let root = flat(&["a", "b", "c"], 10);
    let (train, test) = (
        load(&root, Split::Train).unwrap(),
        load(&root, Split::Test).unwrap(),
    );
    let mut all = [reds(&train), reds(&test)].concat();
    all.sort_unstable();
    assert_eq!(all, (0..30).collect::<Vec<u8>>());
    for class in 0..3 {
        let count = test
            .labels()
            .iter()
            .filter(|&&label| label == class)
            .count();
        assert_eq!(count, 2);
    }
}

#[test]
fn small_classes_have_one_test_image_and_single_images_are_for_training() {
    let root = tree(&["a/0.png", "a/1.png", "b/0.png"]);
    assert_eq!(load(&root, Split::Train).unwrap().len(), 2);
    assert_eq!(load(&root, Split::Test).unwrap().labels(), [0]);
    let greedy = ImageFolder {
        test_fraction: 0.99,
        ..ImageFolder::new(root.path())
    };
    assert_eq!(greedy.load(Split::Train).unwrap().len(), 2);
}

#[test]
fn the_order_is_shuffled_by_the_seed() {
    let root = flat(&["a", "b"], 30);
    let train = load(&root, Split::Train).unwrap();
    assert!(!train.labels().is_sorted(), "{:?}", train.labels());
    assert_eq!(reds(&train), reds(&load(&root, Split::Train).unwrap()));
    let other = ImageFolder {
        seed: 1,
        ..ImageFolder::new(root.path())
    };
    assert_ne!(reds(&train), reds(&other.load(Split::Train).unwrap()));
}

#[test]
fn adding_an_image_keeps_the_order_of_the_others() {
    let root = flat(&["a", "b"], 20);
    let before = reds(&load(&root, Split::Train).unwrap());
    Image::new(1, 1, vec![99, 0, 0])
        .unwrap()
        .write_png(root.path().join("a/new.png"))
        .unwrap();
    let after = reds(&load(&root, Split::Train).unwrap());
    let kept: Vec<u8> = after
        .into_iter()
        .filter(|red| before.contains(red))
        .collect();
    let before: Vec<u8> = before
        .into_iter()
        .filter(|red| kept.contains(red))
        .collect();
    assert_eq!(kept, before);
}

#[test]
fn images_are_downscaled() {
    let root = tempfile::tempdir().unwrap();
    for name in ["wide/a.png", "wide/b.png", "other/c.png"] {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        Image::new(10, 20, vec![7; 600])
            .unwrap()
            .write_png(&path)
            .unwrap();
    }
    let folder = ImageFolder {
        shorter_side: 5,
        ..ImageFolder::new(root.path())
    };
    let train = folder.load(Split::Train).unwrap();
    assert_eq!(
        (train.images()[0].height(), train.images()[0].width()),
        (5, 10)
    );
}

fn error(root: &TempDir) -> DataError {
    let folder = ImageFolder::new(root.path());
    let error = folder.load(Split::Test).unwrap_err();
    assert_eq!(error.to_string(), folder.check().unwrap_err().to_string());
    error
}

#[test]
fn different_classes_in_train_and_test_are_rejected() {
    let root = tree(&["train/cat/a.png", "train/dog/b.png", "test/cat/c.png"]);
    let message = error(&root).to_string();
    assert!(
        message.contains("the same class folders in train and test"),
        "{message}"
    );
    assert!(
        message.contains("no \"dog\" in") && message.ends_with("test"),
        "{message}"
    );
}

#[test]
fn a_missing_test_folder_is_missing() {
    let root = tree(&["train/cat/a.png"]);
    let error = error(&root);
    assert!(
        matches!(&error, DataError::Missing { path, .. } if path.ends_with("test")),
        "{error}"
    );
}

/// The message explains why `train` is taken for a split, and what to do if it is a class.
#[test]
fn a_class_called_train_with_folders_in_it_is_explained() {
    let root = tree(&["bus/a.png", "train/steam/b.png", "train/diesel/c.png"]);
    let message = error(&root).to_string();
    let train = root.path().join("train").display().to_string();
    assert!(
        message.contains(&format!(
            "{train} is read as a split because of its name and the folders in it, such as \"diesel\": if it is a class, \
             rename it or put its images directly into it"
        )),
        "{message}"
    );
    assert!(
        message.contains(&format!("use folder:{train}")),
        "{message}"
    );
}

#[test]
fn a_test_folder_without_class_folders_is_named() {
    let root = tree(&["train/cat/a.png", "train/dog/b.png", "Test/c.png"]);
    let message = error(&root).to_string();
    assert!(
        message.ends_with("Test has no class folders in it"),
        "{message}"
    );
}

#[test]
fn split_folders_may_have_any_synonym_in_any_case() {
    for (train, test) in [
        ("Train", "Test"),
        ("TRAINING", "testing"),
        ("training", "TEST"),
    ] {
        let root = tree(&[
            &format!("{train}/cat/a.png"),
            &format!("{train}/dog/b.png"),
            &format!("{test}/cat/c.png"),
            &format!("{test}/dog/d.png"),
            "extra/e/f.png",
        ]);
        let data = load(&root, Split::Train).unwrap();
        assert_eq!(
            (data.classes(), data.len()),
            (&["cat".into(), "dog".into()][..], 2)
        );
        let test = load(&root, Split::Test).unwrap();
        assert_eq!((test.len(), test.test_split()), (2, (TestSplit::Own, None)));
        let listing = ImageFolder::new(root.path()).listing().unwrap();
        let notes = listing.passed_over().notes();
        assert!(
            notes[0].ends_with("extra skipped: next to the folders of the splits"),
            "{notes:?}"
        );
    }
}

#[test]
fn two_folders_of_one_split_are_rejected() {
    let root = tree(&["train/cat/a.png", "training/cat/b.png", "test/cat/c.png"]);
    let message = error(&root).to_string();
    assert!(message.contains("one folder for each split"), "{message}");
    assert!(
        message.ends_with("found \"train\" and \"training\""),
        "{message}"
    );
}

#[test]
fn split_folders_without_class_folders_are_not_classes() {
    let root = flat(&["Train", "Val", "other"], 3);
    let message = error(&root).to_string();
    assert!(
        message.contains("folders named after splits, \"Train\", \"Val\", without class folders"),
        "{message}"
    );
    let example = Path::new("Train").join("CLASS").join("image.jpg");
    assert!(
        message.contains(&example.display().to_string()),
        "{message}"
    );
}

const WITH_VALIDATION: [&str; 8] = [
    "train/cat/a.png",
    "train/dog/b.png",
    "train/dog/c.png",
    "valid/cat/d.png",
    "valid/dog/e.png",
    "valid/dog/f.png",
    "test/cat/g.png",
    "test/dog/h.png",
];

#[test]
fn a_validation_folder_is_a_split_of_its_own() {
    let root = tree(&WITH_VALIDATION);
    let mut validation = reds(&load(&root, Split::Validation).unwrap());
    validation.sort_unstable();
    assert_eq!(validation, [3, 4, 5]);
    assert_eq!(load(&root, Split::Train).unwrap().len(), 3);
    assert_eq!(load(&root, Split::Test).unwrap().len(), 2);
    let flat = flat(&["cat", "dog"], 3);
    assert!(load(&flat, Split::Validation).unwrap().is_empty());
}

#[test]
fn without_a_test_folder_the_validation_folder_is_the_test_split() {
    let root = tree(&WITH_VALIDATION[..6]);
    let test = load(&root, Split::Test).unwrap();
    assert_eq!(
        (test.len(), test.test_split()),
        (3, (TestSplit::Validation, None))
    );
    assert!(load(&root, Split::Validation).unwrap().is_empty());
}

#[test]
fn a_validation_folder_may_lack_classes_but_have_no_others() {
    let root = tree(&WITH_VALIDATION);
    fs::remove_dir_all(root.path().join("valid/cat")).unwrap();
    let validation = load(&root, Split::Validation).unwrap();
    assert_eq!(validation.classes(), ["cat", "dog"]);
    assert_eq!(validation.labels(), [1, 1]);
    fs::rename(
        root.path().join("valid/dog"),
        root.path().join("valid/wolf"),
    )
    .unwrap();
    let message = ImageFolder::new(root.path())
        .check()
        .unwrap_err()
        .to_string();
    assert!(message.contains("no \"wolf\" in"), "{message}");
}

#[test]
fn a_single_class_is_rejected_with_a_hint_to_the_folder_below() {
    let root = tree(&["photos/cat/a.png", "photos/cat/b.png", "photos/dog/c.png"]);
    let message = error(&root).to_string();
    let below = root.path().join("photos").display().to_string();
    assert!(
        message.ends_with(&format!(
            "expected at least two classes, found one, \"photos\"; {below} has 2 folders in it: \
             if these are the classes or splits, use folder:{below}"
        )),
        "{message}"
    );
    let alone = error(&flat(&["cat"], 3)).to_string();
    assert!(
        alone.ends_with("expected at least two classes, found one, \"cat\""),
        "{alone}"
    );
}

#[test]
fn training_runs_in_the_folder_are_not_classes() {
    let root = flat(&["cat", "dog"], 3);
    let before = reds(&load(&root, Split::Train).unwrap());
    let run = root.path().join("runs/photos-1");
    fs::create_dir_all(run.join("training")).unwrap();
    assert_eq!(reds(&load(&root, Split::Train).unwrap()), before);
    fs::write(run.join("training/recipe.toml"), "").unwrap();
    fs::rename(root.path().join("runs"), root.path().join("sweep")).unwrap();
    assert_eq!(reds(&load(&root, Split::Train).unwrap()), before);
    let listing = ImageFolder::new(root.path()).listing().unwrap();
    let notes = listing.passed_over().notes();
    assert!(
        notes[0].ends_with("sweep skipped: training runs"),
        "{notes:?}"
    );
}

#[test]
fn a_listing_is_a_snapshot() {
    let root = flat(&["cat", "dog"], 5);
    let folder = ImageFolder::new(root.path());
    let listed = ImageFolder {
        listing: Some(folder.listing().unwrap()),
        ..folder.clone()
    };
    let before = reds(&listed.load(Split::Test).unwrap());
    for number in 5..30 {
        fs::copy(
            root.path().join("cat/0.png"),
            root.path().join(format!("cat/{number}.png")),
        )
        .unwrap();
    }
    fs::create_dir(root.path().join("empty")).unwrap();
    assert_eq!(reds(&listed.load(Split::Test).unwrap()), before);
    assert!(matches!(folder.check(), Err(DataError::EmptyClass { .. })));
}

#[test]
fn the_random_split_partitions_the_folder() {
    let root = flat(&["cat", "dog"], 5);
    let [train, test] = ImageFolder::new(root.path()).load_parts().unwrap().unwrap();
    assert_eq!(train.sha256(), load(&root, Split::Train).unwrap().sha256());
    assert_eq!(test.sha256(), load(&root, Split::Test).unwrap().sha256());
    assert_eq!(test.test_split(), (TestSplit::HeldOut, Some(10)));
    let whole = train.whole(test);
    assert_eq!(
        (whole.len(), whole.test_split()),
        (10, (TestSplit::Whole, Some(10)))
    );
    let split = tree(&WITH_VALIDATION);
    assert!(
        ImageFolder::new(split.path())
            .load_parts()
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_folder_without_class_folders_is_rejected() {
    let root = tempfile::tempdir().unwrap();
    assert!(matches!(error(&root), DataError::Missing { .. }));
}

#[test]
fn an_empty_class_is_rejected() {
    let root = flat(&["cat"], 3);
    fs::create_dir(root.path().join("dog")).unwrap();
    fs::write(root.path().join("dog/a.heic"), "").unwrap();
    let error = error(&root);
    assert!(
        matches!(&error, DataError::EmptyClass { path, .. } if path.ends_with("dog")),
        "{error}"
    );
    assert!(
        error.to_string().ends_with("file, found 1 .heic file"),
        "{error}"
    );
}

#[test]
fn a_split_without_images_is_rejected() {
    let root = flat(&["cat", "dog"], 1);
    assert!(error(&root).to_string().contains("two or more images"));
}

fn refusing(root: &TempDir) -> ImageFolder {
    ImageFolder {
        broken: BrokenImages::Refuse,
        ..ImageFolder::new(root.path())
    }
}

#[test]
fn refused_broken_images_are_named() {
    let root = flat(&["cat", "dog"], 3);
    let path = root.path().join("cat/x.jpg");
    fs::write(&path, "no picture").unwrap();
    let results = [Split::Train, Split::Test].map(|split| refusing(&root).load(split));
    let error = results.into_iter().find_map(Result::err).unwrap();
    assert!(
        matches!(&error, DataError::NotAnImage { path: reported, .. } if *reported == path),
        "{error}"
    );
}

#[test]
fn broken_images_do_not_affect_split_and_order_of_the_others() {
    let root = flat(&["a", "b"], 20);
    let before = [Split::Train, Split::Test].map(|split| reds(&load(&root, split).unwrap()));
    for name in ["a/3.png", "a/7.png", "b/0.png", "b/15.png"] {
        fs::write(root.path().join(name), "no picture").unwrap();
    }
    let broken = [3, 7, 20, 35];
    let expected = before.map(|mut reds| {
        reds.retain(|red| !broken.contains(red));
        reds
    });
    let after = [Split::Train, Split::Test].map(|split| load(&root, split).unwrap());
    assert_eq!(after.each_ref().map(reds), expected);
    for dataset in after {
        let labels = reds(&dataset).into_iter().map(|red| u32::from(red >= 20));
        assert!(labels.eq(dataset.labels().iter().copied()));
    }
}

#[test]
fn a_class_without_readable_images_is_rejected_in_training_only() {
    let root = tree(&[
        "train/a/0.png",
        "train/b/1.png",
        "test/a/2.png",
        "test/b/3.png",
    ]);
    fs::write(root.path().join("test/b/3.png"), "").unwrap();
    assert_eq!(reds(&load(&root, Split::Test).unwrap()), [2]);
    fs::write(root.path().join("train/b/1.png"), "").unwrap();
    let error = load(&root, Split::Train).unwrap_err();
    assert!(
        matches!(&error, DataError::UnreadableClass { class, images: 1, .. } if class == "b"),
        "{error}"
    );
    fs::write(root.path().join("test/a/2.png"), "").unwrap();
    let error = load(&root, Split::Test).unwrap_err();
    assert!(error.to_string().contains("found none among 2"), "{error}");
}

#[test]
fn a_test_fraction_out_of_range_is_rejected() {
    let root = flat(&["cat"], 3);
    for test_fraction in [0.0, 1.0, -0.1, f64::NAN] {
        let folder = ImageFolder {
            test_fraction,
            ..ImageFolder::new(root.path())
        };
        let error = folder.load(Split::Train).unwrap_err();
        assert!(matches!(
            error,
            DataError::InvalidOption {
                option: "test_fraction",
                ..
            }
        ));
    }
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_not_in_circles() {
    use std::os::unix::fs::symlink;
    let (root, elsewhere) = (flat(&["cat"], 2), flat(&["dog"], 2));
    symlink(elsewhere.path().join("dog"), root.path().join("dog")).unwrap();
    assert_eq!(load(&root, Split::Train).unwrap().classes(), ["cat", "dog"]);
    symlink(root.path(), root.path().join("cat/loop")).unwrap();
    symlink(root.path(), root.path().join("loop")).unwrap();
    let train = load(&root, Split::Train).unwrap();
    assert_eq!((train.classes().len(), train.len()), (2, 2));
}

/// Like other broken images, they are skipped by name or are an error.
#[cfg(unix)]
#[test]
fn links_to_themselves_and_class_folders_in_proc_are_skipped() {
    use std::os::unix::fs::symlink;
    let root = flat(&["cat", "dog"], 3);
    let path = |name: &str| root.path().join(name);
    symlink(path("cat/x.png"), path("cat/x.png")).unwrap();
    symlink(path("cat/0.png/x.png"), path("cat/y.png")).unwrap();
    if cfg!(target_os = "linux") {
        symlink("/proc", path("proc")).unwrap();
    }
    let all = [Split::Train, Split::Test].map(|split| load(&root, split).unwrap().len());
    assert_eq!(all.iter().sum::<usize>(), 6);
    let results = [Split::Train, Split::Test].map(|split| refusing(&root).load(split));
    assert!(results.iter().any(Result::is_err));
}

#[cfg(target_os = "linux")]
#[test]
fn class_folders_with_the_same_lossy_name_are_rejected() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let root = flat(&["cat"], 2);
    let class = |bytes: &[u8]| {
        let folder = root.path().join(OsStr::from_bytes(bytes));
        fs::create_dir(&folder).unwrap();
        fs::copy(root.path().join("cat/0.png"), folder.join("0.png")).unwrap();
    };
    class(b"\xff\xfe");
    assert_eq!(load(&root, Split::Train).unwrap().classes().len(), 2);
    class(b"\xff\xfd");
    let message = error(&root).to_string();
    assert!(
        message.contains(r#""\xff\xfd" and "\xff\xfe", which look the same"#),
        "{message}"
    );
}

#[test]
fn images_are_named_by_their_paths_in_the_folder() {
    let files = [
        "train/dog/a.png",
        "train/dog/b.PNG",
        "train/cat/deep/c.png",
        "test/cat/d.png",
        "test/dog/e.png",
    ];
    let root = tree(&files);
    for split in [Split::Train, Split::Test] {
        let data = load(&root, split).unwrap();
        let names = data.image_names().unwrap();
        let expected: Vec<&str> = reds(&data).iter().map(|&at| files[at as usize]).collect();
        assert_eq!(names, expected);
    }
    let (first, tail) = load(&root, Split::Train).unwrap().split_tail(0.4);
    let names = [first.image_names().unwrap(), tail.image_names().unwrap()].concat();
    assert_eq!(
        names,
        load(&root, Split::Train).unwrap().image_names().unwrap()
    );
    assert_eq!((first.len(), tail.len()), (1, 2));
}

#[test]
fn names_stay_with_their_images_where_one_is_broken() {
    let root = flat(&["cat", "dog"], 5);
    fs::write(root.path().join("cat/1.png"), "no image").unwrap();
    let mut names = Vec::new();
    for split in [Split::Train, Split::Test] {
        let data = load(&root, split).unwrap();
        assert_eq!(data.image_names().unwrap().len(), data.len());
        for (name, image) in data.image_names().unwrap().iter().zip(data.images()) {
            let image_there = Image::open(root.path().join(name)).unwrap();
            assert_eq!(&image_there, image, "{name}");
        }
        names.extend(data.image_names().unwrap().to_vec());
    }
    assert_eq!(names.len(), 9);
    assert!(!names.contains(&"cat/1.png".to_string()));
}
