//! Limits on what a layer may ask for.

/// Limits for the layers of an image. A layer or an image that exceeds one is refused with `ResourceExhausted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Number of layers of an image.
    pub layers: usize,
    /// Number of entries of all kinds.
    pub entries: u64,
    /// Bytes of the archive, and bytes of all its files including holes.
    pub total_bytes: u64,
    /// Bytes of one PAX header.
    pub pax_bytes: usize,
    /// Bytes of the names and values of the extended attributes of one entry.
    pub xattr_bytes: usize,
    /// Bytes of a path or link target.
    pub path_bytes: usize,
    /// Number of names in a path.
    pub path_depth: usize,
    /// Number of data segments in one sparse file.
    pub sparse_segments: usize,
    /// Bytes after the end of the archive, without the zeros at their end.
    pub trailing_bytes: u64,
    /// Bytes after the end of the archive, zeros included.
    pub padding_bytes: u64,
}

/// Default of [`Limits::layers`]: Docker makes images of at most 127. On the copy strategy each layer takes the space
/// of all below it once more.
pub const LAYERS_MAX: usize = 128;
/// Default of [`Limits::entries`]: about forty times the largest layer seen in practice (113,000).
pub const ENTRIES_MAX: u64 = 4 << 20;
/// Default of [`Limits::total_bytes`]: more than the image of a single machine; the last limit for a bomb of zeros.
pub const TOTAL_BYTES_MAX: u64 = 1 << 40;
/// Default of [`Limits::pax_bytes`]: the limit of Go's reader, so the content of registries keeps to it. The encoder
/// does too.
pub const PAX_BYTES_MAX: usize = 1 << 20;
/// Default of [`Limits::xattr_bytes`]: eight attributes of the kernel's maximum size.
pub const XATTR_BYTES_MAX: usize = 512 << 10;
/// Default of [`Limits::path_bytes`]: four times the maximum of a system call; deeper trees are created in several
/// steps.
pub const PATH_BYTES_MAX: usize = 16 << 10;
/// Default of [`Limits::path_depth`]: the maximum number of names in a path of 4,096 bytes.
pub const PATH_DEPTH_MAX: usize = 2048;
/// Default of [`Limits::sparse_segments`]: 16 MiB of memory.
pub const SPARSE_SEGMENTS_MAX: usize = 1 << 20;
/// Default of [`Limits::trailing_bytes`]: the largest record size that tar programs pad to.
pub const TRAILING_BYTES_MAX: u64 = 1 << 20;
/// Default of [`Limits::padding_bytes`]: archives on block devices are padded to sizes of a device.
pub const PADDING_BYTES_MAX: u64 = 64 << 20;

impl Default for Limits {
    fn default() -> Self {
        Self {
            layers: LAYERS_MAX,
            entries: ENTRIES_MAX,
            total_bytes: TOTAL_BYTES_MAX,
            pax_bytes: PAX_BYTES_MAX,
            xattr_bytes: XATTR_BYTES_MAX,
            path_bytes: PATH_BYTES_MAX,
            path_depth: PATH_DEPTH_MAX,
            sparse_segments: SPARSE_SEGMENTS_MAX,
            trailing_bytes: TRAILING_BYTES_MAX,
            padding_bytes: PADDING_BYTES_MAX,
        }
    }
}
