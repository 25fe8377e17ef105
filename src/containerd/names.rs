//! Names of snapshots as containerd's metadata gives them to a snapshotter: `namespace/number/name`. The name of a
//! layer of an image is its ChainID.
//!
//! # References
//! containerd, `core/metadata/snapshot.go`, `core/unpack`; OCI image specification, `config.md`, "Layer ChainID".

use crate::id::{ChainId, DiffId};

/// The namespace of the snapshot `key`.
pub(super) fn namespace(key: &str) -> Option<&str> {
    key.split_once('/').map(|(namespace, _)| namespace)
}

/// The ChainID that is the name of a snapshot.
fn chain(name: &str) -> Option<ChainId> {
    name.rsplit('/').next().and_then(|last| last.parse().ok()).map(ChainId)
}

/// Whether the name says that the snapshot is a layer of an image.
pub(super) fn is_layer(name: &str) -> bool {
    chain(name).is_some()
}

/// Whether `name` says that the snapshot is `layer` on top of `parent`, and nothing else. Another name promises nothing
/// of what was written besides.
pub(super) fn says(layer: DiffId, name: &str, parent: Option<&str>) -> bool {
    let expected = match parent {
        None => Some(ChainId::base(layer)),
        Some(parent) => chain(parent).map(|below| below.push(layer)),
    };
    expected.is_some() && chain(name) == expected
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Digest;

    #[test]
    fn a_name_says_which_layer_it_is() {
        let (low, high) = (Digest::of(b"low"), Digest::of(b"high"));
        let chain = ChainId::base(low).push(high);
        for (name, parent) in
            [(chain.to_string(), low.to_string()), (format!("default/7/{chain}"), format!("k8s.io/3/{low}"))]
        {
            assert!(says(high, &name, Some(&parent)), "{name}");
            assert!(!says(low, &name, Some(&parent)), "another layer");
            assert!(!says(high, &name, None), "no parent");
            assert!(!says(high, &name, Some("named by somebody")));
            assert!(!says(high, &format!("{name}-init"), Some(&parent)));
            assert!(is_layer(&name) && !is_layer(&format!("{name}-init")));
        }
        assert!(says(low, &format!("default/1/{low}"), None));
        assert!(!says(low, "app", None) && !is_layer("default/2/app"));
    }

    #[test]
    fn a_key_says_its_namespace() {
        assert_eq!(namespace("k8s.io/187/extract-1 sha256:a"), Some("k8s.io"));
        assert_eq!(namespace("key"), None);
    }
}
