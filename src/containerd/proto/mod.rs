//! The protocols, as far as strata speaks them: names and numbers of containerd's API, generated from the `.proto`
//! files in this directory by `make proto`.
//!
//! # References
//! containerd, `api/services/{snapshots,diff,content,introspection,leases,version}/v1` and `api/types`.
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    clippy::all,
    reason = "generated, and not all of it is used"
)]

/// `containerd`, as the packages of the protocols are named.
pub(super) mod containerd {
    pub mod types {
        include!("generated/containerd.types.rs");
    }
    pub mod services {
        pub mod snapshots {
            pub mod v1 {
                include!("generated/containerd.services.snapshots.v1.rs");
            }
        }
        pub mod diff {
            pub mod v1 {
                include!("generated/containerd.services.diff.v1.rs");
            }
        }
        pub mod content {
            pub mod v1 {
                include!("generated/containerd.services.content.v1.rs");
            }
        }
        pub mod introspection {
            pub mod v1 {
                include!("generated/containerd.services.introspection.v1.rs");
            }
        }
        pub mod leases {
            pub mod v1 {
                include!("generated/containerd.services.leases.v1.rs");
            }
        }
        pub mod version {
            pub mod v1 {
                include!("generated/containerd.services.version.v1.rs");
            }
        }
    }
}

pub(super) use containerd::services::{content::v1 as content, diff::v1 as diff, introspection::v1 as introspection};
pub(super) use containerd::services::{leases::v1 as leases, snapshots::v1 as snapshots, version::v1 as version};
pub(super) use containerd::types;
