//! Looks at a live containerd: whether it is set up for strata, and what is wrong if it is not.

use std::path::Path;

use serde::Serialize;
use tokio::runtime::Builder;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::advice::Version;
use super::client::{Client, Plugin};
use super::proto::introspection::introspection_client::IntrospectionClient;
use super::proto::introspection::{Plugin as Known, PluginsRequest};
use super::proto::version::version_client::VersionClient;
use super::{content, convert};
use crate::error::{Context, Error, Result};
use crate::snapshotter::Snapshotter;

/// The type of containerd's plugins that are snapshotters.
const SNAPSHOTTERS: &str = "io.containerd.snapshotter.v1";

/// The name that the printed settings give the snapshotter.
const SNAPSHOTTER: &str = "strata";

/// The name that the printed settings give the differ.
const DIFFER: &str = "strata-diff";

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub what: &'static str,
    /// Whether it is as it should be.
    pub good: bool,
    /// What was found, and what to do if it is wrong.
    pub found: String,
}

fn good(what: &'static str, found: impl Into<String>) -> Finding {
    Finding { what, good: true, found: found.into() }
}

fn wrong(what: &'static str, found: impl Into<String>) -> Finding {
    Finding { what, good: false, found: found.into() }
}

/// What is found at the containerd that listens at `containerd`.
///
/// # Errors
/// `Unavailable` if nobody answers there.
pub fn inspect(containerd: &Path) -> Result<Vec<Finding>> {
    let runtime = Builder::new_current_thread().enable_all().build().at("start a client of", containerd)?;
    let asked = runtime.block_on(async { ask(content::connect(containerd)?).await });
    let silent = |status: &Status| {
        let doing = format!("asking containerd at {}: is it running, and is this its address?", containerd.display());
        convert::error(status).context(doing)
    };
    let (version, plugins) = asked.map_err(|failed| match failed {
        Failed::Address(error) => error,
        Failed::Call(status) => silent(&status),
    })?;
    drop(runtime);
    let mut findings = vec![match version.parse::<Version>() {
        Ok(_) => good("version", &version),
        Err(error) => wrong("version", error.chain()),
    }];
    findings.extend(snapshotter(&plugins));
    if version.parse::<Version>().is_ok_and(Version::has_differs) {
        findings.push(differ(&plugins));
    }
    findings.extend(plugins.iter().find(|plugin| is(plugin, SNAPSHOTTERS, SNAPSHOTTER)).and_then(daemon));
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

async fn ask(channel: Channel) -> Result<(String, Vec<Known>), Failed> {
    let version = VersionClient::new(channel.clone()).version(()).await?.into_inner().version;
    let plugins = IntrospectionClient::new(channel).plugins(PluginsRequest { filters: Vec::new() }).await?;
    Ok((version, plugins.into_inner().plugins))
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
    let mut findings = vec![good(what, "the plugin strata")];
    if plugin.capabilities.is_empty() {
        findings.push(good("capabilities", "none"));
    } else {
        let claimed = plugin.capabilities.join(", ");
        let found = format!("{claimed} is claimed, and strata has none: containerd would lose files; remove the line");
        findings.push(wrong("capabilities", found));
    }
    findings
}

fn differ(plugins: &[Known]) -> Finding {
    let what = "differ";
    match plugins.iter().find(|plugin| is(plugin, "io.containerd.differ.v1", DIFFER)) {
        None => wrong(what, "there is no plugin strata-diff: containerd applies layers by its own rules"),
        Some(plugin) => broken(plugin).map_or_else(|| good(what, "the plugin strata-diff"), |why| wrong(what, why)),
    }
}

/// Whether somebody listens behind the plugin: containerd calls it good as long as it was not needed.
fn daemon(plugin: &Known) -> Option<Finding> {
    let address = plugin.exports.get("address")?;
    let client = Client::connect(Path::new(address), Plugin::default());
    Some(match client.and_then(|client| client.walk(&[], &mut |_| Ok(()))) {
        Err(error) => wrong("daemon", error.chain()),
        Ok(()) => good("daemon", format!("answers at {address}")),
    })
}
