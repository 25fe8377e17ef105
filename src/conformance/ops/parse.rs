//! Parses the lines that operations are printed as.

use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::str::FromStr;

use super::{Edit, FileContent, NOTHING, Op};
use crate::error::{Error, Result};
use crate::tree::text::unescape;
use crate::tree::{Device, FileType, Timestamp};

impl FromStr for Op {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        Ok(match words.as_slice() {
            ["prepare", key, parent] => Self::Prepare { key: name(key)?, parent: name(parent)? },
            ["view", key, parent] => Self::View { key: name(key)?, parent: name(parent)? },
            ["commit", to, key] => Self::Commit { name: name(to)?, key: name(key)? },
            ["rm", key] => Self::Remove { key: name(key)? },
            ["in", key, "at", time, rest @ ..] => {
                let edit = edit(rest).map_err(|error| error.context(format!("the line {line:?}")))?;
                Self::Edit { key: name(key)?, edit, time: moment(time)? }
            }
            _ => return Err(Error::invalid(format!("{line:?} is no line of a script"))),
        })
    }
}

fn edit(words: &[&str]) -> Result<Edit> {
    Ok(match *words {
        ["write", at, length, "bytes", "of", seed] => Edit::Write(path(at)?, content(seed, length)?),
        ["append", at, length, "bytes", "of", seed] => Edit::Append(path(at)?, content(seed, length)?),
        ["truncate", at, size] => Edit::Truncate(path(at)?, number(size)?),
        ["open", at, "for", "writing"] => Edit::Open(path(at)?),
        ["rewrite", at] => Edit::Rewrite(path(at)?),
        ["mkdir", at] => Edit::MakeDir(path(at)?),
        ["ln", "-s", target, at] => Edit::Symlink(path(at)?, bytes(target)?),
        ["ln", from, to] => Edit::Link { from: path(from)?, to: path(to)? },
        ["mknod", at, letter, device] => Edit::MakeNode(path(at)?, file_type(letter)?, self::device(device)?),
        ["rm", "-r", at] => Edit::Remove(path(at)?),
        ["mv", from, to] => Edit::Rename { from: path(from)?, to: path(to)? },
        ["exchange", a, b] => Edit::Exchange(path(a)?, path(b)?),
        ["chmod", mode, at] => Edit::Chmod(path(at)?, octal(mode)?),
        ["chown", owner, at, "(mode", mode] => {
            let (uid, gid) = owner.split_once(':').ok_or_else(|| Error::invalid(format!("{owner:?} is no owner")))?;
            Edit::Chown(path(at)?, number(uid)?, number(gid)?, octal(mode.trim_end_matches(')'))?)
        }
        ["touch", at] => Edit::Touch(path(at)?),
        ["setfattr", "-x", attribute, at] => Edit::RemoveXattr(path(at)?, bytes(attribute)?),
        ["setfattr", attribute, value, at] => Edit::SetXattr(path(at)?, bytes(attribute)?, bytes(value)?),
        _ => return Err(Error::invalid(format!("{:?} is no edit", words.join(" ")))),
    })
}

fn bytes(word: &str) -> Result<Vec<u8>> {
    if word == NOTHING { Ok(Vec::new()) } else { unescape(word) }
}

fn name(word: &str) -> Result<String> {
    String::from_utf8(bytes(word)?).map_err(|error| Error::invalid(format!("{word:?} is no key")).with_source(error))
}

fn path(word: &str) -> Result<PathBuf> {
    if word == "." {
        return Ok(PathBuf::new());
    }
    Ok(std::ffi::OsString::from_vec(unescape(word)?).into())
}

fn number<T: FromStr>(word: &str) -> Result<T> {
    word.parse().map_err(|_| Error::invalid(format!("{word:?} is no number that fits here")))
}

fn octal(word: &str) -> Result<u32> {
    u32::from_str_radix(word, 8).map_err(|error| Error::invalid(format!("{word:?} is no mode")).with_source(error))
}

fn content(seed: &str, length: &str) -> Result<FileContent> {
    Ok(FileContent { seed: number(seed)?, length: number(length)? })
}

fn file_type(letter: &str) -> Result<FileType> {
    let types = [FileType::Char, FileType::Block, FileType::Fifo, FileType::Socket];
    let found = types.into_iter().find(|file_type| file_type.letter().to_string() == letter);
    found.ok_or_else(|| Error::invalid(format!("{letter:?} is no type that mknod makes")))
}

fn device(word: &str) -> Result<Device> {
    let (major, minor) = word.split_once(':').ok_or_else(|| Error::invalid(format!("{word:?} is no device")))?;
    Ok(Device { major: number(major)?, minor: number(minor)? })
}

fn moment(word: &str) -> Result<Timestamp> {
    let wrong = || Error::invalid(format!("{word:?} is no time"));
    let (seconds, nanos) = word.trim_end_matches(':').split_once('.').ok_or_else(wrong)?;
    let time = Timestamp { seconds: number(seconds)?, nanos: number(nanos)? };
    if nanos.len() == 9 { Ok(time) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::random;

    #[test]
    fn what_is_printed_is_read_again() {
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..300 {
            for op in random::script(5, number) {
                let line = op.to_string();
                assert_eq!(line.parse::<Op>().expect(&line), op, "{line}");
                let words: Vec<&str> = line.split(' ').collect();
                let option = words.get(5).filter(|word| words[0] == "in" && matches!(**word, "-s" | "-x"));
                let word = if words[0] == "in" { words[4] } else { words[0] };
                seen.insert((words[0] == "in", word.to_owned(), option.is_some()));
            }
        }
        assert_eq!(seen.len(), 4 + 17, "every kind of line: {seen:?}");
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for line in
            ["", "prepare a", "in k at 1.000000000: fly a", "in k at 1.5: touch a", "in k at x: touch a", "rm a b"]
        {
            assert!(line.parse::<Op>().is_err(), "{line}");
        }
    }
}
