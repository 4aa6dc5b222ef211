use std::collections::BTreeSet;
use std::fs;

use tempfile::TempDir;

use super::*;

/// A tree of 1 x 1 pictures at `files`; the red of each is its place in the list.
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

/// One level: `per_class` pictures of each class.
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
fn folders_of_their_own_draw_the_split() {
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
fn hidden_and_other_files_are_passed_over() {
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
fn the_drawn_split_covers_every_picture_once_and_every_class() {
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
fn small_classes_are_tested_by_one_picture_and_single_pictures_not_at_all() {
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
fn the_order_is_mixed_and_a_function_of_the_seed() {
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
fn one_picture_more_leaves_the_order_of_the_others() {
    let root = flat(&["a", "b"], 20);
    let before = reds(&load(&root, Split::Train).unwrap());
    Image::new(1, 1, vec![99, 0, 0])
        .unwrap()
        .write_png(&root.path().join("a/new.png"))
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
fn pictures_are_shrunk() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("wide")).unwrap();
    for name in ["a.png", "b.png"] {
        let path = root.path().join("wide").join(name);
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
fn different_classes_in_train_and_test_are_refused() {
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

#[test]
fn a_folder_without_class_folders_is_refused() {
    let root = tempfile::tempdir().unwrap();
    assert!(matches!(error(&root), DataError::Missing { .. }));
}

#[test]
fn an_empty_class_is_refused() {
    let root = flat(&["cat"], 3);
    fs::create_dir(root.path().join("dog")).unwrap();
    let error = error(&root);
    assert!(
        matches!(&error, DataError::EmptyClass { path } if path.ends_with("dog")),
        "{error}"
    );
}

#[test]
fn a_split_without_pictures_is_refused() {
    let root = flat(&["cat", "dog"], 1);
    assert!(error(&root).to_string().contains("two pictures or more"));
}

fn refusing(root: &TempDir) -> ImageFolder {
    ImageFolder {
        broken: BrokenPictures::Refuse,
        ..ImageFolder::new(root.path())
    }
}

#[test]
fn a_broken_picture_is_named_where_it_is_refused() {
    let root = flat(&["cat"], 3);
    let path = root.path().join("cat/x.jpg");
    fs::write(&path, "no picture").unwrap();
    let results = [Split::Train, Split::Test].map(|split| refusing(&root).load(split));
    let error = results.into_iter().find_map(Result::err).unwrap();
    assert!(
        matches!(&error, DataError::NotAnImage { path: found, .. } if *found == path),
        "{error}"
    );
}

#[test]
fn broken_pictures_leave_split_and_order_of_the_others_as_they_were() {
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
fn a_class_without_a_readable_picture_cannot_be_learned_but_its_test_can_be_judged() {
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
        matches!(&error, DataError::UnreadableClass { class, pictures: 1, .. } if class == "b"),
        "{error}"
    );
    fs::write(root.path().join("test/a/2.png"), "").unwrap();
    let error = load(&root, Split::Test).unwrap_err();
    assert!(error.to_string().contains("found none among 2"), "{error}");
}

#[test]
fn a_test_fraction_outside_its_range_is_refused() {
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
