//! Generated documents of untrusted images: indexes, manifests and configs of OCI's, `manifest.json`, `repositories`
//! and the layers of docker's forms.

use super::*;
use crate::image::files::Spool;
use crate::image::find::find;
use crate::oci::{LayoutMarker, parse};
use crate::strangers::try_each;

/// Separates the documents of an input.
const BETWEEN: &str = "\u{1e}";

/// Config, manifest, index, `manifest.json`, `repositories` and the `json` of a layer; `@C` and `@M` are the
/// descriptors of config and manifest, `@L` the digest of the layer.
const SEED: [&str; 6] = [
    r#"{"os":"linux","architecture":"amd64","config":{"Env":["A=b"],"Labels":{"a":"b"},"Cmd":null},"rootfs":{"type":"layers","diff_ids":["@L"]},"history":[{"created":"2020-01-01T00:00:00Z","created_by":"x"},{"empty_layer":true}]}"#,
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json",@C},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"@L","size":1024,"annotations":{"a":"b"}}]}"#,
    r#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",@M,"platform":{"os":"linux","architecture":"amd64","variant":"v1"},"annotations":{"org.opencontainers.image.ref.name":"a:1"}},{"mediaType":"application/vnd.oci.image.index.v1+json",@M}]}"#,
    r#"[{"Config":"config.json","RepoTags":["a:1",null],"Layers":["l/layer.tar"]}]"#,
    r#"{"a":{"1":"l"}}"#,
    r#"{"id":"l","parent":"","created":"x","config":{"Cmd":["a"]},"container_config":{"Cmd":["b"]},"os":"linux"}"#,
];

const WORDS: [&str; 30] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "null",
    "{\"a\":",
    "[[",
    "@C",
    "@M",
    "@L",
    "1e400",
    "-1",
    "18446744073709551616",
    "\\u0000",
    "\\ud800",
    "\"\"",
    "\"size\":",
    "\"digest\":\"sha256:00\"",
    "\"digest\":\"sha512:",
    "\"layers\":[",
    "\"platform\":null",
    "\u{1e}",
    "l/layer.tar",
    "../",
    "true",
    "\"mediaType\":\"\"",
    "\u{202e}",
];

#[test]
fn documents() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image.tar");
    let layer = [0; 1024];
    let options = Options::default();
    let seeds = [SEED.join(BETWEEN).into_bytes()];
    try_each(concat!(module_path!(), "::documents"), &seeds, &WORDS, |input| {
        let text = String::from_utf8_lossy(input).replace("@L", &digest(&layer));
        let mut parts = text.split(BETWEEN).map(str::to_owned).chain(std::iter::repeat(String::new()));
        let mut next = || parts.next().unwrap_or_default();
        let descriptor = |bytes: &str| format!("\"digest\":\"{}\",\"size\":{}", digest(bytes.as_bytes()), bytes.len());
        let config = next();
        let manifest = next().replace("@C", &descriptor(&config));
        let index = next().replace("@C", &descriptor(&config)).replace("@M", &descriptor(&manifest));
        let (docker, repositories, old) = (next(), next(), next());
        let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
        let (config_path, manifest_path, layer_path) =
            (blob(config.as_bytes()), blob(manifest.as_bytes()), blob(&layer));
        let files: Vec<(&str, &[u8])> = vec![
            ("index.json", index.as_bytes()),
            ("manifest.json", docker.as_bytes()),
            ("repositories", repositories.as_bytes()),
            ("config.json", config.as_bytes()),
            ("l/json", old.as_bytes()),
            ("l/layer.tar", &layer),
            (&config_path, config.as_bytes()),
            (&manifest_path, manifest.as_bytes()),
            (&layer_path, &layer),
        ];
        fs::write(&path, tar(&files)).expect("write");
        let place = Place::Path(path.clone());
        for reference in [None, Some("a:1"), Some("@0")] {
            for form in [None, Some(Form::Oci), Some(Form::Docker)] {
                let spool = Spool { dir: dir.path(), bytes_max: 1 << 20, cancel: &options.ingest.cancel };
                let files = files::Files::open(&place, spool).expect("open");
                let options = Options { form, ..options.clone() };
                if let Ok(found) = find(&files, reference, &options) {
                    assert!(found.layers.iter().all(|layer| layer.total == found.layers.len()));
                }
            }
        }
        let _ = parse::<LayoutMarker>(index.as_bytes(), "oci-layout");
    });
}
