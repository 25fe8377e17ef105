//! Limits on what a layer may ask for.

/// What a layer may ask for. Everything beyond is `ResourceExhausted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries, whatever becomes of them.
    pub entries: u64,
    /// Bytes of the archive, and bytes of all its files with their holes.
    pub total_bytes: u64,
    /// Bytes of one PAX header.
    pub pax_bytes: usize,
    /// Bytes of the extended attributes of one entry, names and values.
    pub xattr_bytes: usize,
    /// Bytes of a path or link target.
    pub path_bytes: usize,
    /// Names in a path.
    pub path_depth: usize,
    /// Stretches of data in one sparse file.
    pub sparse_segments: usize,
    /// Bytes behind the end of the archive.
    pub trailing_bytes: u64,
}

/// [`Limits::entries`]: about forty times the largest layer seen in practice (113,000).
pub const ENTRIES_MAX: u64 = 4 << 20;
/// [`Limits::total_bytes`]: more than a single machine's image; a bomb of zeros stops here at the latest.
pub const TOTAL_BYTES_MAX: u64 = 1 << 40;
/// [`Limits::pax_bytes`]: what Go's reader accepts, hence what any registry's content respects. The encoder keeps to
/// it.
pub const PAX_BYTES_MAX: usize = 1 << 20;
/// [`Limits::xattr_bytes`]: eight attributes of the kernel's largest size.
pub const XATTR_BYTES_MAX: usize = 512 << 10;
/// [`Limits::path_bytes`]: four times what one system call can name; deeper trees are built step by step.
pub const PATH_BYTES_MAX: usize = 16 << 10;
/// [`Limits::path_depth`]: the names that one system call's 4,096 bytes can hold at most.
pub const PATH_DEPTH_MAX: usize = 2048;
/// [`Limits::sparse_segments`]: 16 MiB of memory.
pub const SPARSE_SEGMENTS_MAX: usize = 1 << 20;
/// [`Limits::trailing_bytes`]: the largest record that tar programs pad to.
pub const TRAILING_BYTES_MAX: u64 = 1 << 20;

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: ENTRIES_MAX,
            total_bytes: TOTAL_BYTES_MAX,
            pax_bytes: PAX_BYTES_MAX,
            xattr_bytes: XATTR_BYTES_MAX,
            path_bytes: PATH_BYTES_MAX,
            path_depth: PATH_DEPTH_MAX,
            sparse_segments: SPARSE_SEGMENTS_MAX,
            trailing_bytes: TRAILING_BYTES_MAX,
        }
    }
}
