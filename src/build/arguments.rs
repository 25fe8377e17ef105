//! The arguments of `COPY` and `ADD`.

use super::head::Head;
use super::heredoc::Document;
use super::position::Position;
use crate::error::Result;

/// A source of a copy.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Path(Position, String),
    /// A here-document.
    Text {
        name: String,
        text: String,
        expand: bool,
    },
}

/// Returns the sources and the target of a `COPY` or `ADD`.
///
/// # Errors
/// `InvalidArgument` without a source, and for a here-document as the target.
pub(super) fn sources_and_target(head: &Head<'_>, documents: &[Document]) -> Result<(Vec<Source>, String)> {
    let mut words = head.words()?;
    let target = words.pop().filter(|_| !words.is_empty());
    let Some((_, target)) = target else {
        return Err(head.at.wrong(format!("{} needs a source and a target", head.keyword)));
    };
    if documents.is_empty() {
        let path = |(offset, path)| Source::Path(head.place(offset), path);
        return Ok((words.into_iter().map(path).collect(), target));
    }
    let announced: Vec<(usize, String)> = rejoined(words);
    let mut documents = documents.iter();
    let mut sources = Vec::new();
    for (offset, word) in announced {
        match Document::parse(&word).and_then(|_| documents.next()) {
            None => sources.push(Source::Path(head.place(offset), word)),
            Some(document) => {
                let (name, text) = (document.name.clone(), document.content());
                sources.push(Source::Text { name, text, expand: document.expands });
            }
        }
    }
    if documents.next().is_some() {
        return Err(head.at.wrong(format!("{} has a here-document as its target", head.keyword)));
    }
    Ok((sources, target))
}

/// Joins the words that announce one document: the name may follow `<<` after a space, and may hold spaces in quotes.
fn rejoined(words: Vec<(usize, String)>) -> Vec<(usize, String)> {
    let mut joined: Vec<(usize, String)> = Vec::new();
    for (offset, word) in words {
        match joined.last_mut() {
            Some((_, last)) if last.starts_with("<<") && Document::parse(last).is_none() => {
                last.push(' ');
                last.push_str(&word);
            }
            _ => joined.push((offset, word)),
        }
    }
    joined
}
