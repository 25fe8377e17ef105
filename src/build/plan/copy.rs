//! `COPY` and `ADD`, evaluated.

use std::sync::Arc;

use super::{CopyAction, From, Planner};
use crate::build::context::Selected;
use crate::build::evaluate::Evaluation;
use crate::build::ignored::Ignored;
use crate::build::mode::Chmod;
use crate::build::parse::{self, Position};
use crate::build::remote::Remote;
use crate::error::{ErrorKind, Result};

impl Planner<'_, '_> {
    pub(super) fn copy(
        &mut self,
        at: &Position,
        copy: &parse::Copy,
        is_add: bool,
        evaluation: &Evaluation,
    ) -> Result<CopyAction> {
        let expand = |text: &String| evaluation.expand(at, text);
        let chmod = copy.chmod.as_ref().map(|chmod| chmod_of(at, &expand(chmod)?)).transpose()?;
        let chown = copy.chown.as_ref().map(expand).transpose()?;
        let from = match &copy.from {
            None => From::Context,
            Some(name) => self.from(at, &expand(name)?)?,
        };
        let checksum = copy.checksum.as_ref().map(expand).transpose()?;
        let (mut sources, mut texts, mut remotes) = (Vec::new(), Vec::new(), Vec::new());
        for source in &copy.sources {
            match source {
                parse::Source::Path(place, path) => {
                    let path = evaluation.expand(place, path)?;
                    if is_remote(place, &path, is_add)? {
                        remotes.push(Remote::new(place, &path, checksum.as_deref())?);
                    } else {
                        sources.push((place.clone(), path));
                    }
                }
                parse::Source::Text { name, text, expand: false } => texts.push((name.clone(), text.clone())),
                parse::Source::Text { name, text, expand: true } => {
                    texts.push((name.clone(), evaluation.document(at, text)?));
                }
            }
        }
        let excludes = copy.excludes.iter().map(expand).collect::<Result<Vec<_>>>()?;
        let excluded = Ignored::of(excludes.iter().map(String::as_str));
        let excluded = Arc::new(excluded.map_err(|error| at.error(error.kind(), error.chain()))?);
        let target = target(evaluation, &expand(&copy.target)?);
        check_remotes(at, &remotes, copy, &target)?;
        let selected = match from {
            From::Context => self.select(&sources, copy.parents, &excluded)?,
            _ => Vec::new(),
        };
        let sources = sources.into_iter().map(|(_, path)| path).collect();
        let (unpacks, link, parents) = (copy.unpack.unwrap_or(is_add), copy.link, copy.parents);
        Ok(CopyAction {
            from,
            sources,
            selected,
            texts,
            remotes,
            target,
            chown,
            chmod,
            unpacks,
            unpacks_remotes: copy.unpack.unwrap_or_default(),
            link,
            parents,
            excludes,
            excluded,
        })
    }

    /// Selects the sources in the build context.
    fn select(
        &mut self,
        sources: &[(Position, String)],
        parents: bool,
        excluded: &Arc<Ignored>,
    ) -> Result<Vec<Selected>> {
        let mut selected = Vec::new();
        for (at, source) in sources {
            let Some(context) = self.around.context.as_deref_mut() else {
                return Err(at.wrong("there is no build context to copy from"));
            };
            let found = context.pick(source, parents, excluded);
            selected.extend(found.map_err(|error| at.error(error.kind(), error.chain()))?);
        }
        Ok(selected)
    }

    /// Returns the stage or image that `COPY --from` names.
    fn from(&mut self, at: &Position, name: &str) -> Result<From> {
        if let Some(number) = self.stage_of(name).or_else(|| name.parse().ok().map(|number| self.needs(number))) {
            if number < self.stages.len() {
                return Ok(From::Stage(number));
            }
            return Err(at.wrong(format!("there is no earlier stage {name}")));
        }
        self.image(at, name).map(From::Image)
    }
}

/// Returns the target `text` as an absolute path, with a slash at the end if the target has to be a directory.
fn target(evaluation: &Evaluation, text: &str) -> String {
    let mut target = evaluation.absolute(text);
    if (text.is_empty() || text == "." || text.ends_with('/') || text.ends_with("/.")) && target != "/" {
        target.push('/');
    }
    target
}

fn chmod_of(at: &Position, text: &str) -> Result<Chmod> {
    Chmod::parse(text)
        .ok_or_else(|| at.wrong(format!("--chmod={text}: an octal number up to 7777, or clauses such as u=rwX,go=rX")))
}

/// Whether a source is a URL.
fn is_remote(at: &Position, source: &str, is_add: bool) -> Result<bool> {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| source.starts_with(prefix));
    let is_url = begins(&["http://", "https://"]);
    let path = source.split(['?', '#']).next().unwrap_or_default();
    let is_repository = begins(&["git@", "git://", "ssh://"]) || (is_url && path.ends_with(".git"));
    match (is_url || is_repository, is_add) {
        (false, _) => Ok(false),
        (true, false) => Err(at.wrong("COPY takes no URL: write ADD")),
        (true, true) if is_repository => {
            let what = "ADD of a repository is not supported: clone it in a RUN, or before the build";
            Err(at.error(ErrorKind::Unsupported, what))
        }
        (true, true) => Ok(true),
    }
}

/// Refuses `--checksum` unless a URL is the only source, `--keep-git-dir`, and a URL that lacks a needed file name.
fn check_remotes(at: &Position, remotes: &[Remote], copy: &parse::Copy, target: &str) -> Result<()> {
    if copy.checksum.is_some() && (remotes.len() != 1 || copy.sources.len() != 1) {
        return Err(at.wrong("--checksum is for one source, which is a URL"));
    }
    if copy.keep_git_dir.is_some() {
        return Err(at.wrong("--keep-git-dir is for repositories"));
    }
    match remotes.iter().find(|remote| remote.name.is_empty() && (target.ends_with('/') || copy.sources.len() > 1)) {
        Some(remote) => Err(remote.at.wrong("the URL has no name of a file: the target has to be one")),
        None => Ok(()),
    }
}
