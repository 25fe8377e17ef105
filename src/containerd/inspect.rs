//! Looks at a live containerd: whether it is set up for strata, and what is wrong if it is not.

use std::path::Path;

use serde::Serialize;
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::client::{Client, Plugin};
use super::plugin_config::{REMAP_IDS, Version};
use super::proto::introspection::introspection_client::IntrospectionClient;
use super::proto::introspection::{Plugin as Known, PluginsRequest};
use super::proto::version::version_client::VersionClient;
use super::{content, convert, settings};
use crate::error::{Context, Error, Result};
use crate::snapshotter::Snapshotter;
use crate::store::UNVERIFIED;

/// The type of containerd's plugins that are snapshotters.
const SNAPSHOTTERS: &str = "io.containerd.snapshotter.v1";

/// The name that the printed settings give the snapshotter.
const SNAPSHOTTER: &str = "strata";

/// The name that the printed settings give the differ.
const DIFFER: &str = "strata-diff";

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The subject of the finding.
    pub what: &'static str,
    /// Whether it is as it should be.
    pub good: bool,
    /// The state that was found, and the cure if it is wrong.
    pub found: String,
}

fn good(what: &'static str, found: impl Into<String>) -> Finding {
    Finding { what, good: true, found: found.into() }
}

fn wrong(what: &'static str, found: impl Into<String>) -> Finding {
    Finding { what, good: false, found: found.into() }
}

/// Inspects the containerd that listens at `containerd`.
///
/// # Errors
/// `Unavailable` if nobody answers there.
pub fn inspect(containerd: &Path) -> Result<Vec<Finding>> {
    let runtime = Builder::new_current_thread().enable_all().build().at("start a client of", containerd)?;
    let asked = runtime.block_on(async { ask(containerd, content::connect(containerd)?).await });
    let silent = |status: &Status| {
        let doing = format!("asking containerd at {}: is it running, and is this its address?", containerd.display());
        convert::error(status).context(doing)
    };
    let (version, plugins, pid) = asked.map_err(|failed| match failed {
        Failed::Address(error) => error,
        Failed::Call(status) => silent(&status),
    })?;
    drop(runtime);
    let mut findings = vec![match version.parse::<Version>() {
        Ok(_) => good("version", &version),
        Err(error) => wrong("version", error.chain()),
    }];
    findings.extend(snapshotter(&plugins));
    let has_differs = version.parse::<Version>().is_ok_and(Version::has_differs);
    if has_differs {
        findings.push(differ(&plugins));
        findings.extend(settings_of(pid));
    }
    if let Some(plugin) = plugins.iter().find(|plugin| is(plugin, SNAPSHOTTERS, SNAPSHOTTER)) {
        findings.extend(daemon(plugin, has_differs));
    }
    Ok(findings)
}

/// Why nothing was found.
enum Failed {
    Address(Error),
    Call(Status),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Address(error)
    }
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Call(status)
    }
}

/// The version of containerd, its plugins, and its process, where that can be known.
async fn ask(containerd: &Path, channel: Channel) -> Result<(String, Vec<Known>, Option<i32>), Failed> {
    let version = VersionClient::new(channel.clone()).version(()).await?.into_inner().version;
    let plugins = IntrospectionClient::new(channel).plugins(PluginsRequest { filters: Vec::new() }).await?;
    let pid =
        UnixStream::connect(containerd).await.and_then(|stream| stream.peer_cred()).ok().and_then(|peer| peer.pid());
    Ok((version, plugins.into_inner().plugins, pid))
}

/// Inspects the settings of the containerd that is the process `pid`.
fn settings_of(pid: Option<i32>) -> Vec<Finding> {
    let what = "settings";
    let Some(pid) = pid else {
        return vec![wrong(what, "which process containerd is cannot be known: nothing was read")];
    };
    let read = settings::file_of(pid).and_then(|file| settings::read(&file).map(|tables| (file, tables)));
    match read {
        Err(error) => vec![wrong(what, error.chain())],
        Ok((file, tables)) => match settings::mistakes(&tables) {
            none if none.is_empty() => vec![good(what, format!("{} serves strata and overlayfs", file.display()))],
            mistakes => {
                let told = |mistake: String| wrong(what, format!("{}: {mistake}", file.display()));
                mistakes.into_iter().map(told).collect()
            }
        },
    }
}

fn is(plugin: &Known, kind: &str, id: &str) -> bool {
    plugin.r#type == kind && plugin.id == id
}

fn broken(plugin: &Known) -> Option<&str> {
    plugin.init_err.as_ref().filter(|status| status.code != Code::Ok as i32).map(|status| status.message.as_str())
}

fn snapshotter(plugins: &[Known]) -> Vec<Finding> {
    let what = "snapshotter";
    let Some(plugin) = plugins.iter().find(|plugin| is(plugin, SNAPSHOTTERS, SNAPSHOTTER)) else {
        return vec![wrong(what, "there is no plugin strata: strata serve --print-config containerd --for VERSION")];
    };
    if let Some(why) = broken(plugin) {
        return vec![wrong(what, why)];
    }
    vec![good(what, "the plugin strata"), capabilities(&plugin.capabilities)]
}

/// The finding for the capabilities that the settings claim.
fn capabilities(claimed: &[String]) -> Finding {
    let what = "capabilities";
    let wrongly: Vec<&str> = claimed.iter().map(String::as_str).filter(|name| *name != REMAP_IDS).collect();
    match (claimed, &wrongly[..]) {
        ([], _) => good(what, "none"),
        (_, []) => good(what, REMAP_IDS),
        (_, wrongly) => wrong(
            what,
            format!(
                "{} is claimed, and strata has {REMAP_IDS} only: containerd would lose files or refuse pods; remove it",
                wrongly.join(", ")
            ),
        ),
    }
}

fn differ(plugins: &[Known]) -> Finding {
    let what = "differ";
    match plugins.iter().find(|plugin| is(plugin, "io.containerd.differ.v1", DIFFER)) {
        None => wrong(what, "there is no plugin strata-diff: containerd applies layers by its own rules"),
        Some(plugin) => broken(plugin).map_or_else(|| good(what, "the plugin strata-diff"), |why| wrong(what, why)),
    }
}

/// Whether a daemon listens behind the plugin: containerd calls the plugin good as long as it was not needed. And
/// whether each layer of an image was written by strata's differ, where containerd can have that.
fn daemon(plugin: &Known, has_differs: bool) -> Vec<Finding> {
    let Some(address) = plugin.exports.get("address") else { return Vec::new() };
    let unverified = format!("labels.{UNVERIFIED:?}");
    let mut count = 0;
    let client = Client::connect(Path::new(address), Plugin::default());
    let walked = client.and_then(|client| {
        client.walk(&[&unverified], &mut |_| {
            count += 1;
            Ok(())
        })
    });
    match walked {
        Err(error) => vec![wrong("daemon", error.chain())],
        Ok(()) => {
            let daemon = good("daemon", format!("answers at {address}"));
            if has_differs { vec![daemon, layers(count)] } else { vec![daemon] }
        }
    }
}

/// The finding for `count` layers that another differ wrote.
fn layers(count: usize) -> Finding {
    let what = "layers";
    if count == 0 {
        return good(what, "none was written by another differ");
    }
    let many = if count == 1 { "1 layer was".to_owned() } else { format!("{count} layers were") };
    wrong(
        what,
        format!(
            "{many} written by another differ and may be wrong: strata check lists them; remove their images, and pull \
             them again"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::proto::introspection::Status as InitError;
    use super::*;

    fn known(kind: &str, id: &str) -> Known {
        Known { r#type: kind.to_owned(), id: id.to_owned(), ..Known::default() }
    }

    fn said(findings: &[Finding]) -> Vec<(&str, bool, &str)> {
        findings.iter().map(|finding| (finding.what, finding.good, finding.found.as_str())).collect()
    }

    #[test]
    fn what_is_wrong_with_a_setup_is_said() {
        let right = known(SNAPSHOTTERS, SNAPSHOTTER);
        assert_eq!(
            said(&snapshotter(std::slice::from_ref(&right))),
            [("snapshotter", true, "the plugin strata"), ("capabilities", true, "none")]
        );
        let missing = snapshotter(&[known(SNAPSHOTTERS, "overlayfs"), known("io.containerd.differ.v1", SNAPSHOTTER)]);
        assert!(matches!(&missing[..], [one] if !one.good && one.found.contains("--print-config")), "{missing:?}");
        for (claimed, good, found) in [
            (&["remap-ids"][..], true, "remap-ids"),
            (&["remap-ids", "rebase"], false, "rebase is claimed"),
            (&["only-remap-ids"], false, "only-remap-ids is claimed"),
        ] {
            let claimed = claimed.iter().map(|name| (*name).to_owned()).collect();
            let claims = snapshotter(&[Known { capabilities: claimed, ..right.clone() }]);
            assert!(claims.iter().any(|one| one.good == good && one.found.starts_with(found)), "{claims:?}");
        }
        let init_err = Some(InitError { code: Code::Unavailable as i32, message: "no socket".to_owned() });
        let broken = snapshotter(&[Known { init_err, ..right }]);
        assert_eq!(said(&broken), [("snapshotter", false, "no socket")]);
    }

    #[test]
    fn a_differ_is_there_or_is_not() {
        assert!(differ(&[known("io.containerd.differ.v1", DIFFER)]).good);
        assert!(!differ(&[known("io.containerd.differ.v1", "walking"), known(SNAPSHOTTERS, DIFFER)]).good);
    }

    #[test]
    fn nobody_listens_behind_a_plugin() {
        let exports = [("address".to_owned(), "/nowhere/strata.sock".to_owned())].into();
        let found = daemon(&Known { exports, ..known(SNAPSHOTTERS, SNAPSHOTTER) }, true);
        assert!(!found[0].good && found[0].found.contains("is the daemon running?"), "{found:?}");
        assert_eq!(found.len(), 1, "nothing is known of its layers");
        assert_eq!(daemon(&known(SNAPSHOTTERS, SNAPSHOTTER), true), [], "too old to say where it is");
    }
}
