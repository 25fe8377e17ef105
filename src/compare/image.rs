//! The image that every subject gets: either generated in the shape of a real image, or read from the user.
//!
//! A generated image is the same for every run with the same seed. Its file sizes, and its numbers of directories and
//! links per file, are those of a minimal Debian 12 (`debootstrap --variant=minbase`): 5,244 files of 22 KiB on
//! average, half of them below 2.1 KiB. File content is random, so no layer of the system can compress or deduplicate
//! it.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::changeset::{Change, Sink};
use crate::error::Result;
use crate::tree::{Meta, Node, Timestamp, Xattrs};

/// File sizes at the 0th, 5th, ... 95th percentile, and a size that only a few files exceed.
const SIZES_BYTES: [u64; 21] = [
    0, 118, 278, 521, 619, 740, 932, 1183, 1467, 1759, 2108, 2500, 3174, 4640, 7943, 14_245, 18_680, 24_358, 43_952,
    84_933, 1_000_000,
];

/// Files for each directory.
const FILES_PER_DIR: u64 = 7;

/// Files for each symbolic link.
const FILES_PER_LINK: u64 = 8;

/// Depth of the files that workloads change, counting the file name.
const CHANGED_DEPTH: usize = 4;

/// Modification time of every file: an image is older than the changes made to it.
const MADE: Timestamp = Timestamp { seconds: 1_700_000_000, nanos: 0 };

/// A function that writes a whole tree into a sink; it can be called repeatedly.
pub type Producer = Arc<dyn Fn(&mut dyn Sink) -> Result<()> + Send + Sync>;

/// An image as a value: its list of files, and the seed of generated content.
#[derive(Clone, Debug)]
pub struct Image {
    seed: u64,
    files: Vec<File>,
    inodes: u64,
    content: ImageContent,
}

/// Source of an image's content.
#[derive(Clone)]
enum ImageContent {
    MadeUp { dirs: Vec<PathBuf>, links: Vec<PathBuf> },
    Read(Producer),
}

impl fmt::Debug for ImageContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MadeUp { .. } => "made up",
            Self::Read(_) => "read",
        })
    }
}

/// A regular file of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Path in the image.
    pub path: PathBuf,
    /// Length of the file.
    pub size_bytes: u64,
}

impl Image {
    /// Generates an image of `files` files, none longer than `size_max_bytes`, from `seed`.
    pub fn new(files: u64, size_max_bytes: u64, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut dirs = vec![PathBuf::new()];
        for number in 0..files.div_ceil(FILES_PER_DIR) {
            let above = random.pick(&dirs).clone();
            dirs.push(above.join(format!("dir{number}")));
        }
        let files = (0..files)
            .map(|number| File {
                path: random.pick(&dirs).join(format!("file{number}")),
                size_bytes: size(&mut random).min(size_max_bytes),
            })
            .collect::<Vec<_>>();
        let links = (0..files.len() as u64 / FILES_PER_LINK)
            .map(|number| random.pick(&dirs).join(format!("link{number}")))
            .collect::<Vec<_>>();
        let inodes = (dirs.len() + files.len() + links.len()) as u64;
        Self { seed, files, inodes, content: ImageContent::MadeUp { dirs, links } }
    }

    /// Reads the image that `produce` writes, once and completely. The changes that workloads make to it follow from
    /// `seed`.
    ///
    /// # Errors
    /// Errors of `produce`.
    pub fn read(produce: Producer, seed: u64) -> Result<Self> {
        // The root counts as one inode even if `produce` writes no entry for it.
        let (mut files, mut inodes) = (Vec::new(), 1);
        let mut sink = |change: &Change, _: &mut dyn Read| {
            inodes += u64::from(!change.path().as_os_str().is_empty());
            if let Change::Put { path, meta: Meta { node: Node::File { size }, .. }, .. } = change {
                files.push(File { path: path.clone(), size_bytes: *size });
            }
            Ok(())
        };
        produce(&mut sink)?;
        Ok(Self { seed, files, inodes, content: ImageContent::Read(produce) })
    }

    /// Returns the seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns the regular files.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// Chooses `count` files for a workload to change, all at the same depth and spread over the image. A copy-up also
    /// copies the directories above a file, so files at one depth make the work the same for small and large images.
    pub fn files_to_change(&self, count: u64, random: &mut Random) -> Vec<&File> {
        let depth = |file: &&File| file.path.components().count() == CHANGED_DEPTH;
        let mut files: Vec<&File> = self.files.iter().filter(depth).collect();
        if (files.len() as u64) < count {
            files = self.files.iter().collect();
        }
        let count = count.min(files.len() as u64);
        // One file is taken from each of `count` equal parts of the list, so no file is chosen twice.
        let span = files.len() as u64 / count.max(1);
        (0..count).map(|part| files[(part * span + random.below(span)) as usize]).collect()
    }

    /// Returns the number of names in the image, including the root.
    pub fn inodes(&self) -> u64 {
        self.inodes
    }

    /// Returns the sum of the file sizes.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }

    /// Writes the whole image into `sink`, each directory before its content.
    ///
    /// # Errors
    /// Errors of `sink`.
    pub fn produce(&self, sink: &mut dyn Sink) -> Result<()> {
        let (dirs, links) = match &self.content {
            ImageContent::Read(produce) => return produce(sink),
            ImageContent::MadeUp { dirs, links } => (dirs, links),
        };
        let mut put = |path: &Path, node: Node, mode: u32, data: &mut dyn Read| {
            let meta = Meta { node, mode, uid: 0, gid: 0, mtime: MADE, xattrs: Xattrs::new() };
            sink.change(&Change::Put { path: path.to_owned(), existed: false, meta }, data)
        };
        for dir in dirs {
            put(dir, Node::Dir, 0o755, &mut std::io::empty())?;
        }
        for (number, file) in self.files.iter().enumerate() {
            let content = Random::new(self.seed ^ number as u64);
            put(&file.path, Node::File { size: file.size_bytes }, 0o644, &mut content.take(file.size_bytes))?;
        }
        for link in links {
            put(link, Node::Symlink { target: b"../somewhere".to_vec() }, 0o777, &mut std::io::empty())?;
        }
        Ok(())
    }
}

/// Draws a file size from the distribution of Debian's files.
fn size(random: &mut Random) -> u64 {
    let steps = SIZES_BYTES.len() as u64 - 1;
    let step = random.below(steps);
    let (from, to) = (SIZES_BYTES[step as usize], SIZES_BYTES[step as usize + 1]);
    if step + 1 < steps {
        return from + random.below(to - from + 1);
    }
    // The last interval spans more than one decimal order, and large files are rarer than small ones: the square
    // weights the draw towards small sizes.
    let share = random.below(1 << 20) as f64 / f64::from(1 << 20);
    (from as f64 * (to as f64 / from as f64).powf(share * share)) as u64
}

/// SplitMix64, a pseudorandom generator: the same seed gives the same numbers. The `Read` implementation gives the
/// numbers' bytes, without end.
///
/// # References
/// Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Creates a generator from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`, or 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The high half of the product is close enough to uniform for any `end` far below 2^64.
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// Returns one element of `some`, which must not be empty.
    fn pick<'a, T>(&mut self, some: &'a [T]) -> &'a T {
        &some[self.below(some.len() as u64) as usize]
    }
}

impl Read for Random {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        Ok(buffer.len())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Runs `image` into a sink and returns the paths and a checksum of the content.
    fn produced(image: &Image) -> (Vec<PathBuf>, u64) {
        let (mut paths, mut sum) = (Vec::new(), 0_u64);
        let mut sink = |change: &Change, data: &mut dyn Read| {
            paths.push(change.path().to_owned());
            let mut bytes = Vec::new();
            data.read_to_end(&mut bytes).expect("random bytes");
            sum = bytes.iter().fold(sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
            Ok(())
        };
        image.produce(&mut sink).expect("produce");
        (paths, sum)
    }

    #[test]
    fn a_seed_is_an_image() {
        let [one, same, other] = [7, 7, 8].map(|seed| produced(&Image::new(100, 4096, seed)));
        assert_eq!(one, same);
        assert_ne!(one.0, other.0);
        assert_ne!(one.1, other.1);
    }

    #[test]
    fn parents_first_and_nothing_twice() {
        let image = Image::new(500, 0, 3);
        let (paths, _) = produced(&image);
        assert_eq!(paths.len() as u64, image.inodes());
        let mut seen = BTreeSet::new();
        for path in paths {
            assert!(path.parent().is_none_or(|above| seen.contains(above)), "{}", path.display());
            assert!(seen.insert(path));
        }
    }

    #[test]
    fn sizes_are_debians() {
        let image = Image::new(6000, u64::MAX, 1);
        let mut sizes: Vec<u64> = image.files().iter().map(|file| file.size_bytes).collect();
        sizes.sort_unstable();
        let mean = image.size_bytes() / 6000;
        assert!((1_800..2_500).contains(&sizes[3000]), "median {}", sizes[3000]);
        assert!((15_000..30_000).contains(&mean), "mean {mean}");
        assert!(Image::new(6000, 100, 1).files().iter().all(|file| file.size_bytes <= 100));
    }

    #[test]
    fn random_numbers_stay_below() {
        let mut random = Random::new(0);
        let seen: BTreeSet<u64> = (0..1000).map(|_| random.below(10)).collect();
        assert_eq!(seen, (0..10).collect());
        assert_eq!(random.below(0), 0);
    }
}
