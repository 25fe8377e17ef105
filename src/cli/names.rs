//! Resolves a word of the command line: a snapshot by its key, a layer by the beginning of its digest, or an image.
//!
//! Where a snapshot is changed or removed, only the exact key counts ([`key`]). Where a snapshot is only read or used
//! as a parent, an image stands for its topmost layer ([`snapshot`]). An exact name wins over a beginning of a digest.

use crate::error::{Error, ErrorKind, Result};
use crate::snapshotter::Snapshotter as _;
use crate::store::{Image, Store};

/// Prefix of a digest. A word that is not longer than the prefix names no layer.
const DIGEST: &str = "sha256:";

/// How many of those that could be meant an error names.
const SHOWN_MAX: usize = 3;

/// The snapshot of that key; else the only committed one whose name begins so, if `word` is the beginning of a digest.
///
/// # Errors
/// `NotFound`, for an image with what can be done with that; `InvalidArgument` for the beginning of several names.
pub(super) fn key(store: &Store, word: &str) -> Result<String> {
    let missing = match exact(store, word) {
        Err(error) if error.kind() == ErrorKind::NotFound => error,
        found => return found,
    };
    let found = only(word, layers(store, word)?)?;
    found.ok_or_else(|| unless_image(store, word, missing))
}

/// As [`key`]; but an image, by its name or the beginning of its ID, names its topmost layer.
///
/// # Errors
/// As [`key`]; `FailedPrecondition` for an image without layers.
pub(super) fn snapshot(store: &Store, word: &str) -> Result<String> {
    let missing = match exact(store, word) {
        Err(error) if error.kind() == ErrorKind::NotFound => error,
        found => return found,
    };
    if let Some(image) = found(store.image(word))? {
        return top(&image);
    }
    let mut names = layers(store, word)?;
    for image in images(store, word)? {
        names.push(top(&image)?);
    }
    // Several names of one image, or a layer that begins as its image does, are one thing.
    names.sort();
    names.dedup();
    only(word, names)?.ok_or(missing)
}

/// The name of the image that is called so, or whose ID begins so.
///
/// # Errors
/// `NotFound`; `InvalidArgument` for the beginning of several IDs, and for an ID that has several names.
pub(super) fn image(store: &Store, word: &str) -> Result<String> {
    let missing = match store.image(word) {
        Err(error) if error.kind() == ErrorKind::NotFound => error,
        found => return found.map(|image| image.name),
    };
    let names = images(store, word)?.into_iter().map(|image| image.name).collect();
    only(word, names)?.ok_or_else(|| match store.stat(word) {
        Ok(_) => Error::not_found(format!("{word:?} is a snapshot, and no image: strata images lists those")),
        Err(_) => missing,
    })
}

/// Whether `word` can name the snapshot `name`.
pub(super) fn can_name(word: &str, name: &str) -> bool {
    word == name || beginning(word).is_some_and(|start| name.starts_with(start))
}

fn exact(store: &Store, word: &str) -> Result<String> {
    store.stat(word).map(|info| info.name)
}

/// `word`, if it is the beginning of a digest.
fn beginning(word: &str) -> Option<&str> {
    word.strip_prefix(DIGEST).filter(|digits| !digits.is_empty()).map(|_| word)
}

/// The committed snapshots whose names begin so.
fn layers(store: &Store, word: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    if let Some(start) = beginning(word) {
        store.walk(&["kind==committed"], &mut |info| {
            names.extend(info.name.starts_with(start).then(|| info.name.clone()));
            Ok(())
        })?;
    }
    Ok(names)
}

/// The images whose IDs begin so.
fn images(store: &Store, word: &str) -> Result<Vec<Image>> {
    let Some(start) = beginning(word) else { return Ok(Vec::new()) };
    Ok(store.images()?.into_iter().filter(|image| image.config.to_string().starts_with(start)).collect())
}

fn top(image: &Image) -> Result<String> {
    let none = || Error::precondition(format!("the image {:?} has no layers: there is no snapshot of it", image.name));
    image.top.clone().ok_or_else(none)
}

/// The only one that `word` can mean.
fn only(word: &str, mut names: Vec<String>) -> Result<Option<String>> {
    if names.len() <= 1 {
        return Ok(names.pop());
    }
    let more = if names.len() > SHOWN_MAX { ", ..." } else { "" };
    let shown = names.iter().take(SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    Err(Error::invalid(format!("{word:?} can mean {} things: {shown}{more}: say which", names.len())))
}

/// Turns the error `NotFound` into `None`.
fn found<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        answer => answer.map(Some),
    }
}

/// The error for a `word` that names no snapshot; where it names an image, it says what can be done with that.
fn unless_image(store: &Store, word: &str, error: Error) -> Error {
    let begins_an_id = || images(store, word).is_ok_and(|images| !images.is_empty());
    if store.image(word).is_err() && !begins_an_id() {
        return error;
    }
    Error::not_found(format!(
        "{word:?} is an image, and no snapshot: strata prepare KEY {word} makes one on it, strata history {word} tells \
         of it, strata rmi {word} removes it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_alike_is_asked_for() {
        let only = |names: &[&str]| only("sha256:a", names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(only(&[]).expect("nothing"), None);
        assert_eq!(only(&["a"]).expect("one"), Some("a".to_owned()));
        for (names, shown) in [(&["a", "b"][..], "2 things: a, b:"), (&["a", "b", "c", "d"], "4 things: a, b, c, ...:")]
        {
            let error = only(names).expect_err("several");
            assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains(shown), "{error}");
        }
    }

    #[test]
    fn a_beginning_has_a_digit() {
        assert!(can_name("sha256:a", "sha256:ab") && can_name("ab", "ab"));
        assert!(!can_name("sha256:", "sha256:ab") && !can_name("a", "ab") && !can_name("sha256:b", "sha256:ab"));
    }
}
