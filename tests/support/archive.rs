//! Small images for import tests.

use serde_json::{Value, json};

/// An image: its name, and for each layer the names and contents of its files.
pub type Image<'a> = (&'a str, Vec<Vec<(String, Vec<u8>)>>);

/// Returns a docker archive of `images`.
pub fn docker_archive(images: &[Image<'_>]) -> Vec<u8> {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut manifest = Vec::new();
    for (name, contents) in images {
        let layers: Vec<Vec<u8>> = contents.iter().map(|files| archive(files)).collect();
        let diff_ids: Vec<_> = layers.iter().map(|layer| strata::id::Digest::of(layer)).collect();
        let config =
            json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let paths: Vec<String> = (0..layers.len()).map(|at| format!("{name}-{at}.tar")).collect();
        manifest.push(json!({
            "Config": format!("{name}.json"), "Layers": paths, "RepoTags": [format!("{name}:latest")],
        }));
        files.push((format!("{name}.json"), config.to_string().into_bytes()));
        files.extend(paths.into_iter().zip(layers));
    }
    files.push(("manifest.json".to_owned(), Value::from(manifest).to_string().into_bytes()));
    archive(&files)
}

/// Returns a tar archive of `files`.
pub fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes.as_slice()).expect("append");
    }
    archive.into_inner().expect("an archive")
}
