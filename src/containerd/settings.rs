//! Reads the settings of a live containerd, and finds mistakes in them: containerd's services do not tell the settings,
//! and a plugin that is loaded may still not be used.
//!
//! # References
//! containerd, `docs/man/containerd-config.toml.5.md`, `docs/transfer.md`, `plugins/transfer`.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::error::{Context, Error, Result};

/// The file of a containerd that was started without `--config`.
const DEFAULT: &str = "/etc/containerd/config.toml";

/// The file that the command line of a containerd names.
fn named(arguments: &[&str]) -> PathBuf {
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        let value = match *argument {
            "-c" | "--config" | "-config" => rest.next().copied(),
            joined => ["--config=", "-config=", "-c="].iter().find_map(|name| joined.strip_prefix(name)),
        };
        if let Some(path) = value {
            return path.into();
        }
    }
    DEFAULT.into()
}

/// The file of settings of the containerd that is the process `pid`.
///
/// # Errors
/// Errors of reading `/proc`.
pub(super) fn file_of(pid: i32) -> Result<PathBuf> {
    let place = format!("/proc/{pid}/cmdline");
    let line = std::fs::read(&place).at("read the command line of containerd from", &place)?;
    let line = String::from_utf8_lossy(&line).into_owned();
    let path = named(&line.split('\0').collect::<Vec<_>>());
    let place = format!("/proc/{pid}/cwd");
    let start = std::fs::read_link(&place).at("read the working directory of containerd from", &place)?;
    Ok(start.join(path))
}

/// The settings in `file` and in what it imports, in the order in which the later ones win.
///
/// # Errors
/// Errors of reading the files; `InvalidArgument` for a file that is no TOML.
pub(super) fn read(file: &Path) -> Result<Vec<Table>> {
    let mut tables = vec![parse(file)?];
    let imports = tables[0].get("imports").and_then(Value::as_array).cloned().unwrap_or_default();
    let parent = file.parent().unwrap_or(Path::new("/"));
    for import in imports.iter().filter_map(Value::as_str) {
        for file in matching(&parent.join(import))? {
            tables.push(parse(&file)?);
        }
    }
    Ok(tables)
}

fn parse(file: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(file).at("read the settings of containerd", file)?;
    text.parse().map_err(|error| {
        Error::invalid(format!("the settings of containerd in {} are no TOML", file.display())).with_source(error)
    })
}

/// The files that `pattern` means: itself, or those of its directory whose names fit one `*`.
fn matching(pattern: &Path) -> Result<Vec<PathBuf>> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some((begin, end)) = name.split_once('*') else { return Ok(vec![pattern.to_owned()]) };
    let dir = pattern.parent().unwrap_or(Path::new("/"));
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).at("list", dir)? {
        let name = entry.at("list", dir)?.file_name();
        let shown = name.to_string_lossy();
        if shown.len() >= begin.len() + end.len() && shown.starts_with(begin) && shown.ends_with(end) {
            files.push(dir.join(&name));
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// The value of the setting `name` of the plugin `plugin`, in the last of `tables` that has it.
fn setting<'a>(tables: &'a [Table], plugin: &str, name: &str) -> Option<&'a Value> {
    tables.iter().rev().find_map(|table| table.get("plugins")?.get(plugin)?.get(name))
}

/// The mistakes in the settings of a containerd that can have a differ in another process, each with its cure.
pub(super) fn mistakes(tables: &[Table]) -> Vec<String> {
    let mut mistakes = unpacking(setting(tables, "io.containerd.transfer.v1.local", "unpack_config"));
    mistakes.extend(order(setting(tables, "io.containerd.service.v1.diff-service", "default")));
    mistakes
}

/// The mistakes in the list of platforms and snapshotters that containerd unpacks for.
fn unpacking(list: Option<&Value>) -> Vec<String> {
    let entries = list.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let differ = |snapshotter: &str| {
        let entry = entries.iter().find(|entry| entry.get("snapshotter").and_then(Value::as_str) == Some(snapshotter));
        entry.map(|entry| entry.get("differ").and_then(Value::as_str).unwrap_or_default())
    };
    let mut mistakes = Vec::new();
    match differ("strata") {
        None => {
            mistakes.push("no unpack_config names the snapshotter strata: containerd cannot pull for it".to_owned())
        }
        Some("strata-diff") => {}
        Some(other) => mistakes.push(format!(
            "the unpack_config of strata has the differ {other:?}: it applies layers by its own rules; set strata-diff"
        )),
    }
    match differ("overlayfs") {
        None if entries.is_empty() => {}
        None => mistakes.push(
            "unpack_config replaces containerd's own list and has no entry for overlayfs: pulls for it fail, and so do \
             those of Kubernetes; add snapshotter = \"overlayfs\" with differ = \"walking\""
                .to_owned(),
        ),
        Some("walking" | "erofs") => {}
        Some(other) => mistakes.push(format!(
            "the unpack_config of overlayfs has the differ {other:?}: set walking, which is containerd's own"
        )),
    }
    mistakes
}

/// The mistake in the order in which containerd asks its differs.
fn order(order: Option<&Value>) -> Option<String> {
    let names: Vec<&str> = order.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    match names.split_first() {
        Some((&"strata-diff", rest)) if rest.contains(&"walking") => None,
        Some((&"strata-diff", _)) => Some(
            "the default of the diff-service lacks walking: layers of other snapshotters are not applied; add it at the end"
                .to_owned(),
        ),
        _ => Some(
            "the default of the diff-service does not begin with strata-diff: another differ writes into strata's \
             snapshots; set [\"strata-diff\", \"walking\"]"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_that_of_the_command_line() {
        for (line, file) in [
            ("containerd", DEFAULT),
            ("containerd -c /a", "/a"),
            ("containerd --log-level debug --config /b", "/b"),
            ("containerd --config=/c --address /s", "/c"),
        ] {
            assert_eq!(named(&line.split(' ').collect::<Vec<_>>()), Path::new(file), "{line}");
        }
    }

    #[test]
    fn imports_are_read_and_win() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("write");
        write("config.toml", "imports = [\"parts-*.toml\", \"other.toml\", \"nowhere/*.toml\"]");
        write("parts-1.toml", "a = 1");
        write("parts-2.toml", "a = 2");
        write("other.toml", "a = 3");
        write("parts-3.text", "no TOML");
        let tables = read(&dir.path().join("config.toml")).expect("settings");
        let values: Vec<_> = tables.iter().filter_map(|table| table.get("a")?.as_integer()).collect();
        assert_eq!(values, [1, 2, 3]);
        write("other.toml", "a =");
        assert_eq!(
            read(&dir.path().join("config.toml")).expect_err("no TOML").kind(),
            crate::ErrorKind::InvalidArgument
        );
    }

    fn of(entries: &[(&str, &str)], order: &str) -> Vec<String> {
        let entry = |(snapshotter, differ): &(&str, &str)| {
            format!(
                "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\nsnapshotter = {snapshotter:?}\n\
                 differ = {differ:?}\n"
            )
        };
        let list: String = entries.iter().map(entry).collect();
        let text = format!("{list}[plugins.'io.containerd.service.v1.diff-service']\ndefault = {order}\n");
        mistakes(&[text.parse().expect("TOML")])
    }

    #[test]
    fn each_mistake_is_told_with_its_cure() {
        let (own, overlay, both) =
            (("strata", "strata-diff"), ("overlayfs", "walking"), r#"["strata-diff", "walking"]"#);
        assert_eq!(of(&[overlay, own], both), Vec::<String>::new());
        for (entries, order, said) in [
            (&[own][..], both, "no entry for overlayfs"),
            (&[overlay], both, "no unpack_config names the snapshotter strata"),
            (&[], both, "no unpack_config names the snapshotter strata"),
            (&[overlay, ("strata", "walking")], both, "set strata-diff"),
            (&[("overlayfs", ""), own], both, "set walking"),
            (&[overlay, own], r#"["walking"]"#, "does not begin with strata-diff"),
            (&[overlay, own], r#"["walking", "strata-diff"]"#, "does not begin with strata-diff"),
            (&[overlay, own], r#"["strata-diff"]"#, "lacks walking"),
        ] {
            let found = of(entries, order);
            assert!(matches!(&found[..], [one] if one.contains(said)), "{said}: {found:?}");
        }
        assert_eq!(mistakes(&[Table::new()]).len(), 2, "nothing was set");
    }
}
