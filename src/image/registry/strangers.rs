//! Generated files of settings and credentials. Users write such files, and a mistake must be an error that names the
//! file.

use std::fs;

use super::credentials;
use super::hosts::{HostSettings, endpoints};
use super::reference::Reference;
use crate::strangers::try_each;

fn reference() -> Reference {
    "registry.test:5000/team/app:1".parse().expect("a name")
}

#[test]
fn hosts_toml() {
    let dir = tempfile::tempdir().expect("a directory");
    let own = dir.path().join("registry.test:5000");
    fs::create_dir(&own).expect("mkdir");
    let settings = HostSettings { dirs: vec![dir.path().to_owned()], ..HostSettings::default() };
    let seed = "server = \"https://upstream.test\"\nskip_verify = true\n[host.\"http://z.test\"]\ncapabilities = [\"pull\", \"push\"]\n\
                ca = [\"a.pem\"]\n[host.\"a.test/x\"]\noverride_path = true\n";
    let words = [
        "[",
        "]",
        "[[",
        "\"",
        "=",
        "\n",
        ".",
        "{",
        "}",
        "host",
        "server = ",
        "'''",
        "\\u0000",
        "[host.\"x\"]\n",
        "://",
        "1e9",
        "#",
    ];
    try_each(concat!(module_path!(), "::hosts_toml"), &[seed.as_bytes().to_vec()], &words, |input| {
        fs::write(own.join("hosts.toml"), input).expect("write");
        let _ = endpoints(&reference(), &settings);
    });
}

#[test]
fn registries_conf() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("registries.conf");
    let settings = HostSettings { registries: vec![file.clone()], ..HostSettings::default() };
    let seed = "unqualified-search-registries = [\"docker.io\"]\n[[registry]]\nprefix = \"registry.test:5000/team\"\nlocation = \"x.test/y\"\n\
                [[registry.mirror]]\nlocation = \"mirror.test\"\ninsecure = true\n[[registry]]\nprefix = \"*.test:5000\"\nblocked = true\n";
    let words = [
        "[",
        "]",
        "[[registry]]\n",
        "[[registry.mirror]]\n",
        "\"",
        "=",
        "\n",
        "prefix = \"\"\n",
        "location = \"\"\n",
        "*.",
        "/",
        "{",
        "\u{e9}",
    ];
    try_each(concat!(module_path!(), "::registries_conf"), &[seed.as_bytes().to_vec()], &words, |input| {
        fs::write(&file, input).expect("write");
        let _ = endpoints(&reference(), &settings);
    });
}

#[test]
fn auth_json() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("auth.json");
    // The helper `strata-none` does not exist, because an existing helper would be run.
    let seed = "{\"auths\":{\"registry.test:5000\":{\"auth\":\"YTpi\"},\"https://old.test/v1/\":{\"username\":\"a\",\"password\":\"b\"},\
                \"registry.test:5000/team\":{\"identitytoken\":\"t\"}},\"credHelpers\":{\"x.test\":\"strata-none\"}}";
    let words =
        ["{", "}", "[", "\"", ":", ",", "null", "\"auths\":", "\"auth\":\"", "=", "/", "\\u0000", "https://", "\"\""];
    try_each(concat!(module_path!(), "::auth_json"), &[seed.as_bytes().to_vec()], &words, |input| {
        fs::write(&file, input).expect("write");
        let _ = credentials::find(&reference(), std::slice::from_ref(&file));
    });
}
